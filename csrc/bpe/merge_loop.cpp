// Exact BPE over a flat array of symbols.
//
//   symbols_   |B| t h e |B| T T T |B| ...      B bounds pieces; one cell for each byte of a piece
//
// A token of n bytes keeps its n cells for ever: its id stands in the first and in the last, the
// cells between are holes. So the neighbours of the token at i are found without links: the next
// one starts at i + length[id], the last cell of the one before is i - 1. A merge rewrites at most
// four cells. A position once recorded for the pair (a, b) is still good exactly when the cell
// holds a and the cell length[a] further holds b: ids are never reused and an inner cell never
// gets an id again.
//
// Counts of existing pairs only fall, and every new pair contains the newest id. Hence
//   - the positions of a pair are all known when it is born, in ascending order;
//   - a heap with lazily refreshed counts gives the exact maximum;
//   - a pair born below `floor_` need not be kept while the maximum is not below it. When it gets
//     there, the pairs are indexed afresh from the symbols with a lower floor.
// Pieces are laid out by falling count, so that the weight of a position is a step function.
//
// Threads share a merge of many positions: each takes a run of them that begins with a piece, keeps
// its own account of the neighbours, and writes the positions of the new pairs to its own part of
// each list. The accounts are added up in the order of the runs, so nothing depends on the threads.
//
// Cost: each position is visited once for each pair that it was recorded for; every successful
// visit shortens a piece, so the visits are at most three times the bytes of the distinct pieces.
#include "bpe/merge_loop.h"

#include <algorithm>
#include <memory>
#include <queue>
#include <span>
#include <stdexcept>
#include <string>

#include "bpe/pair_map.h"
#include "common/huge_array.h"
#include "common/team.h"

namespace nanochat::bpe {
namespace {

constexpr uint32_t kBoundary = 0xFFFFFFFF;
constexpr uint32_t kHole = 0xFFFFFFFE;
constexpr uint32_t kNumBytes = 256;
constexpr size_t kPrefetch = 32;       // visits ahead
constexpr size_t kCheck = 1 << 16;     // steps of a long walk from one look at `stop` to the next
constexpr size_t kSharedVisits = 512;  // of a merge that is worth calling the other threads for
constexpr int kMaxThreads = 8;         // beyond, what one thread does alone decides

struct Pair {
  uint32_t left, right;
  int64_t count;                  // weighted, exact
  std::span<uint32_t> positions;  // ascending starts of `left`; may hold places merged since
};
using Pairs = PairMap<Pair>;

// Memory for positions, given back all at once: in total they are no more than the symbols are in
// natural text, and memory that is never returned to anybody need not be fetched again.
class Positions {
 public:
  std::span<uint32_t> allocate(size_t n) {
    if (n > free_.size()) {
      const size_t size = std::max(n, kChunk);
      chunks_.push_back(allocate_huge<uint32_t>(size));
      free_ = {chunks_.back().get(), size};
    }
    const std::span<uint32_t> taken = free_.first(n);
    free_ = free_.subspan(n);
    return taken;
  }

 private:
  static constexpr size_t kChunk = size_t{1} << 19;  // 2 MB
  std::vector<std::unique_ptr<uint32_t[], FreeMemory>> chunks_;
  std::span<uint32_t> free_;
};

// What a thread has counted of a pair, and where its positions go.
struct Tally {
  uint32_t left, right;
  int64_t weight = 0;
  uint32_t num_positions = 0;
  uint32_t* out = nullptr;
};

struct Candidate {
  int64_t count;
  uint32_t left, right;
  uint32_t pair;
};

struct ComesLater {  // ties: the smaller ids come first
  bool operator()(const Candidate& a, const Candidate& b) const {
    if (a.count != b.count) return a.count < b.count;
    return a.left != b.left ? a.left > b.left : a.right > b.right;
  }
};

struct WeightStep {
  uint32_t end;  // one past the last cell
  int64_t weight;
};

// Weight of a cell, for cells asked in ascending order.
class WeightCursor {
 public:
  explicit WeightCursor(const std::vector<WeightStep>& steps)
      : step_(steps.begin()), end_(steps.end()) {}

  int64_t at(uint32_t cell) {
    if (cell >= step_->end) {
      step_ = std::upper_bound(step_, end_, cell,
                               [](uint32_t c, const WeightStep& step) { return c < step.end; });
    }
    return step_->weight;
  }

 private:
  std::vector<WeightStep>::const_iterator step_, end_;
};

// What a thread sees on one side of the pairs it merges. Neighbours are few in one merge: their
// accounts stand close together, and what is kept for each id is four bytes.
class Neighbours {
 public:
  struct Account {
    uint32_t id;
    uint32_t num_seen = 0;
    int64_t weight = 0;
    uint32_t offset = 0;      // of this thread's positions among those of the new pair
    uint32_t* out = nullptr;  // where they go; null if the new pair is not kept
  };

  void make_room(size_t num_ids) { number_of_.resize(std::max(num_ids, number_of_.size()), kNew); }
  void add(uint32_t id, uint32_t position, int64_t weight) {
    const uint32_t number = open(id);
    accounts_[number].weight += weight;
    ++accounts_[number].num_seen;
    seen_.push_back({number, position});
  }
  // Adds the accounts of the thread that comes next.
  void add_up(Neighbours& next) {
    for (Account& theirs : next.accounts_) {
      Account& sum = of(theirs.id);
      theirs.offset = sum.num_seen;
      sum.num_seen += theirs.num_seen;
      sum.weight += theirs.weight;
    }
  }
  // The id's account, opened if there is none.
  [[nodiscard]] Account& of(uint32_t id) { return accounts_[open(id)]; }
  // Says where the positions of the id's new pair begin, if the id was seen.
  void set_places(uint32_t id, uint32_t* places) {
    if (number_of_[id] == kNew || places == nullptr) return;
    Account& account = accounts_[number_of_[id]];
    account.out = places + account.offset;
  }
  void write_positions() {
    for (const auto& [number, position] : seen_) {
      if (uint32_t*& out = accounts_[number].out; out != nullptr) *out++ = position;
    }
  }
  void clear() {
    for (const Account& account : accounts_) number_of_[account.id] = kNew;
    accounts_.clear();
    seen_.clear();
  }
  [[nodiscard]] const std::vector<Account>& accounts() const { return accounts_; }

 private:
  static constexpr uint32_t kNew = 0xFFFFFFFF;
  struct Seen {
    uint32_t number, position;
  };

  uint32_t open(uint32_t id) {
    uint32_t& number = number_of_[id];
    if (number == kNew) {
      number = static_cast<uint32_t>(accounts_.size());
      accounts_.push_back({.id = id});
    }
    return number;
  }

  std::vector<uint32_t> number_of_;  // by id
  std::vector<Account> accounts_;
  std::vector<Seen> seen_;
};

// A thread's part of a merge.
struct Share {
  Neighbours left, right;
  int64_t twin_weight = 0;      // of (id, id), id the new token
  std::vector<uint32_t> twins;  // its positions

  void make_room(size_t num_ids) {
    left.make_room(num_ids);
    right.make_room(num_ids);
  }
  // Adds the account of the thread that comes next.
  void add_up(Share& other) {
    left.add_up(other.left);
    right.add_up(other.right);
    twin_weight += other.twin_weight;
    twins.insert(twins.end(), other.twins.begin(), other.twins.end());
  }
  void write_positions_and_clear() {
    for (Neighbours* side : {&left, &right}) {
      side->write_positions();
      side->clear();
    }
    twin_weight = 0;
    twins.clear();
  }
};

class MergeLoop {
 public:
  MergeLoop(std::vector<WeightedPiece> pieces, size_t num_merges, int num_threads,
            Training& training)
      : training_(training), team_(std::min(num_threads, kMaxThreads)), shares_(team_.size()) {
    std::erase_if(pieces, [](const WeightedPiece& piece) { return piece.bytes.size() < 2; });
    sort_by_count(pieces);
    lay_out(pieces);
    num_merges_ = std::min(num_merges, symbols_.size());  // each merge takes at least one symbol
    length_.assign(kNumBytes, 1);
    // The last of n merges is seen about (weighted bytes / n) / 70 times in natural text; half of
    // that leaves out most pairs and rarely asks for a second indexing.
    floor_ = std::max<int64_t>(1, total_weight_ / (128 * static_cast<int64_t>(num_merges_ + 1)));
  }

  std::vector<Merge> run() {
    std::vector<Merge> merges;
    index_pairs();
    while (merges.size() < num_merges_) {
      training_.check();
      const uint32_t best = pop_best();
      if (best == Pairs::kNone) {
        if (floor_ == 1) break;
        floor_ = std::max<int64_t>(1, floor_ / 8);
        index_pairs();
        continue;
      }
      merges.push_back({pairs_[best].left, pairs_[best].right});
      apply(best);
      training_.num_merges.store(static_cast<int64_t>(merges.size()), std::memory_order_relaxed);
    }
    return merges;
  }

 private:
  // Each thread sorts a run; of the merging of two sorted halves there is little.
  void sort_by_count(std::vector<WeightedPiece>& pieces) {
    const auto is_more_frequent = [](const WeightedPiece& a, const WeightedPiece& b) {
      return a.count > b.count;
    };
    const auto run = [&](size_t share) {
      return pieces.begin() + static_cast<ptrdiff_t>(pieces.size() * share / shares_.size());
    };
    for_shares(shares_.size(),
               [&](size_t share) { std::sort(run(share), run(share + 1), is_more_frequent); });
    for (size_t share = 1; share < shares_.size(); ++share) {
      std::inplace_merge(pieces.begin(), run(share), run(share + 1), is_more_frequent);
    }
  }

  void lay_out(const std::vector<WeightedPiece>& pieces) {
    std::vector<size_t> firsts(shares_.size() + 1), first_cells(shares_.size() + 1);
    size_t num_cells = 1;
    for (size_t share = 0; share < shares_.size(); ++share) {
      firsts[share + 1] = pieces.size() * (share + 1) / shares_.size();
      first_cells[share] = num_cells;
      for (size_t k = firsts[share]; k < firsts[share + 1]; ++k) {
        const WeightedPiece& piece = pieces[k];
        num_cells += piece.bytes.size() + 1;
        if (steps_.empty() || steps_.back().weight != piece.count) {
          steps_.push_back({0, piece.count});
        }
        steps_.back().end = static_cast<uint32_t>(num_cells);
        total_weight_ += piece.count * static_cast<int64_t>(piece.bytes.size());
      }
      training_.check();
    }
    if (num_cells >= kHole - kNumBytes) {
      throw std::length_error("train_bpe: distinct pieces must be below 4 GiB in all, got " +
                              std::to_string(num_cells) + " bytes");
    }
    symbols_ = HugeArray<uint32_t>(num_cells);
    symbols_[0] = kBoundary;
    for_shares(shares_.size(), [&](size_t share) {
      size_t cell = first_cells[share];
      for (size_t k = firsts[share]; k < firsts[share + 1]; ++k) {
        if (k % kCheck == 0) training_.check();
        if (k + kPrefetch < pieces.size()) __builtin_prefetch(pieces[k + kPrefetch].bytes.data());
        for (const char byte : pieces[k].bytes) symbols_[cell++] = static_cast<unsigned char>(byte);
        symbols_[cell++] = kBoundary;
      }
    });
  }

  // Calls body(share number) for shares 0 to num_shares - 1, at once if there are several.
  template <typename Body>
  void for_shares(size_t num_shares, Body&& body) {
    if (num_shares == 1) return body(size_t{0});
    team_.run(num_shares, body);
  }

  // visit(left, right, position) for every adjacent pair of tokens in a share of the cells, in
  // order. Shares begin and end at boundaries of pieces.
  template <typename Visit>
  void for_each_pair(size_t share, Visit&& visit) const {
    const auto boundary_from = [&](size_t cell) {
      while (cell < symbols_.size() && symbols_[cell] != kBoundary) ++cell;
      return cell;
    };
    size_t i = boundary_from(symbols_.size() * share / shares_.size());
    const size_t end = boundary_from(symbols_.size() * (share + 1) / shares_.size());
    for (size_t step = 1; i < end; ++step) {
      if (step % kCheck == 0) training_.check();
      const uint32_t left = symbols_[i];
      const size_t next = i + (left == kBoundary ? 1 : length_[left]);
      if (left != kBoundary && symbols_[next] != kBoundary) {
        visit(left, symbols_[next], static_cast<uint32_t>(i));
      }
      i = next;
    }
  }

  // Finds all pairs with a count of at least floor_ and their positions.
  void index_pairs() {
    std::vector<PairMap<Tally>> tallies(shares_.size());
    for_shares(shares_.size(), [&](size_t share) {
      PairMap<Tally>& mine = tallies[share];
      WeightCursor weights(steps_);
      for_each_pair(share, [&](uint32_t left, uint32_t right, uint32_t position) {
        uint32_t pair = mine.find(left, right);
        if (pair == mine.kNone) pair = mine.insert(left, right, {.left = left, .right = right});
        mine[pair].weight += weights.at(position);
        ++mine[pair].num_positions;
      });
    });

    PairMap<Tally> all;
    for (PairMap<Tally>& mine : tallies) {
      for (uint32_t i = 0; i < mine.size(); ++i) {
        const Tally& tally = mine[i];
        uint32_t pair = all.find(tally.left, tally.right);
        if (pair == all.kNone) {
          pair = all.insert(tally.left, tally.right, {.left = tally.left, .right = tally.right});
        }
        all[pair].weight += tally.weight;
        all[pair].num_positions += tally.num_positions;
      }
    }
    pairs_ = Pairs();
    heap_ = {};
    positions_ = {};
    for (uint32_t pair = 0; pair < all.size(); ++pair) {
      Tally& tally = all[pair];
      tally.out = add_pair(tally.left, tally.right, tally.weight, tally.num_positions);
    }
    for (PairMap<Tally>& mine : tallies) {
      for (uint32_t pair = 0; pair < mine.size(); ++pair) {
        uint32_t*& next = all[all.find(mine[pair].left, mine[pair].right)].out;
        mine[pair].out = next;
        if (next != nullptr) next += mine[pair].num_positions;
      }
    }
    for_shares(shares_.size(), [&](size_t share) {
      PairMap<Tally>& mine = tallies[share];
      for_each_pair(share, [&](uint32_t left, uint32_t right, uint32_t position) {
        if (uint32_t*& out = mine[mine.find(left, right)].out; out != nullptr) *out++ = position;
      });
    });
  }

  // Returns where its positions go, or null if the count is below floor_.
  uint32_t* add_pair(uint32_t left, uint32_t right, int64_t count, uint32_t num_positions) {
    if (count < floor_) return nullptr;
    const std::span<uint32_t> places = positions_.allocate(num_positions);
    const Pair pair{.left = left, .right = right, .count = count, .positions = places};
    heap_.push({count, left, right, pairs_.insert(left, right, pair)});
    return places.data();
  }

  // Takes what it has seen of each neighbour from the count of the pair with it. Two steps, so that
  // the misses of all neighbours are in flight together.
  template <typename PairWith>
  void take_from_pairs(const Neighbours& side, PairWith&& pair_with) {
    for (const Neighbours::Account& account : side.accounts()) {
      const auto [left, right] = pair_with(account.id);
      pairs_.prefetch(left, right);
    }
    for (const Neighbours::Account& account : side.accounts()) {
      const auto [left, right] = pair_with(account.id);
      const uint32_t pair = pairs_.find(left, right);
      if (pair != Pairs::kNone) pairs_[pair].count -= account.weight;
    }
  }

  // The most frequent pair, or kNone when none reaches floor_.
  uint32_t pop_best() {
    while (!heap_.empty()) {
      Candidate top = heap_.top();
      heap_.pop();
      const int64_t count = pairs_[top.pair].count;
      if (count < floor_) continue;
      if (count < top.count) {
        top.count = count;
        heap_.push(top);
      } else {
        return top.pair;
      }
    }
    return Pairs::kNone;
  }

  // Where the share of a merge begins: at the first position of a piece.
  size_t first_of_share(std::span<const uint32_t> positions, size_t share,
                        size_t num_shares) const {
    size_t k = positions.size() * share / num_shares;
    const auto begins_piece = [&] {
      uint32_t cell = positions[k];
      while (cell > positions[k - 1] && symbols_[cell] != kBoundary) --cell;
      return cell > positions[k - 1];
    };
    while (k > 0 && k < positions.size() && !begins_piece()) ++k;
    return k;
  }

  // Replaces every occurrence of the pair, left to right, by a new id, and updates all counts.
  void apply(uint32_t best) {
    const uint32_t a = pairs_[best].left;
    const uint32_t b = pairs_[best].right;
    const std::span<const uint32_t> positions = pairs_[best].positions;
    const auto id = static_cast<uint32_t>(length_.size());
    length_.push_back(length_[a] + length_[b]);

    const size_t num_shares = positions.size() < kSharedVisits ? 1 : shares_.size();
    std::vector<size_t> firsts(num_shares + 1, positions.size());
    for (size_t share = 0; share < num_shares; ++share) {
      firsts[share] = first_of_share(positions, share, num_shares);
      shares_[share].make_room(id);
    }
    for_shares(num_shares, [&](size_t share) {
      const size_t first = firsts[share];
      merge(positions.subspan(first, firsts[share + 1] - first), a, b, id, shares_[share]);
    });
    Share& all = shares_[0];
    for (size_t share = 1; share < num_shares; ++share) all.add_up(shares_[share]);

    take_from_pairs(all.left, [a](uint32_t before) { return Merge{before, a}; });
    take_from_pairs(all.right, [b](uint32_t after) { return Merge{b, after}; });
    pairs_[best].count = 0;
    // (id, a) was counted where the second of two adjacent occurrences had not been merged yet.
    if (all.twin_weight != 0) all.right.of(a).weight -= all.twin_weight;

    for (const Neighbours::Account& account : all.left.accounts()) {
      uint32_t* const places = add_pair(account.id, id, account.weight, account.num_seen);
      for (size_t share = 0; share < num_shares; ++share) {
        shares_[share].left.set_places(account.id, places);
      }
    }
    for (const Neighbours::Account& account : all.right.accounts()) {
      uint32_t* const places = add_pair(id, account.id, account.weight, account.num_seen);
      for (size_t share = 0; share < num_shares; ++share) {
        shares_[share].right.set_places(account.id, places);
      }
    }
    if (uint32_t* const places =
            add_pair(id, id, all.twin_weight, static_cast<uint32_t>(all.twins.size()));
        places != nullptr) {
      std::copy(all.twins.begin(), all.twins.end(), places);
    }
    for_shares(num_shares, [&](size_t share) { shares_[share].write_positions_and_clear(); });
  }

  // Merges at the positions that are still good; what it sees goes into the share.
  void merge(std::span<const uint32_t> positions, uint32_t a, uint32_t b, uint32_t id,
             Share& share) {
    const uint32_t length_a = length_[a];
    const uint32_t length_ab = length_[id];
    WeightCursor weights(steps_);
    for (size_t k = 0; k < positions.size(); ++k) {
      if (k + kPrefetch < positions.size()) {
        __builtin_prefetch(&symbols_[positions[k + kPrefetch]], 1);
      }
      const uint32_t i = positions[k];
      if (symbols_[i] != a || symbols_[i + length_a] != b) continue;
      symbols_[i + length_a - 1] = kHole;
      symbols_[i + length_a] = kHole;
      symbols_[i] = id;
      symbols_[i + length_ab - 1] = id;
      const int64_t weight = weights.at(i);
      const uint32_t before = symbols_[i - 1];
      const uint32_t after = symbols_[i + length_ab];
      if (before == id) {
        share.twin_weight += weight;
        share.twins.push_back(i - length_ab);
      } else if (before != kBoundary) {
        share.left.add(before, i - length_[before], weight);
      }
      if (after != kBoundary) share.right.add(after, i, weight);
    }
  }

  Training& training_;
  Team team_;
  std::vector<Share> shares_;  // one for each thread
  size_t num_merges_ = 0;
  HugeArray<uint32_t> symbols_;
  std::vector<WeightStep> steps_;
  std::vector<uint32_t> length_;  // bytes of a token
  int64_t total_weight_ = 0;
  int64_t floor_ = 1;
  Pairs pairs_;
  Positions positions_;
  std::priority_queue<Candidate, std::vector<Candidate>, ComesLater> heap_;
};

}  // namespace

std::vector<Merge> learn_merges(std::vector<WeightedPiece> pieces, size_t num_merges,
                                int num_threads, Training& training,
                                const std::function<void()>& release_pieces) {
  MergeLoop loop(std::move(pieces), num_merges, num_threads, training);
  release_pieces();
  return loop.run();
}

}  // namespace nanochat::bpe
