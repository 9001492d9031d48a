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
// Cost: each position is visited once for each pair that it was recorded for; every successful
// visit shortens a piece, so the visits are at most three times the bytes of the distinct pieces.
#include "bpe/merge_loop.h"

#include <algorithm>
#include <queue>
#include <stdexcept>

#include "bpe/pair_index.h"

namespace nanochat::bpe {
namespace {

constexpr uint32_t kBoundary = 0xFFFFFFFF;
constexpr uint32_t kHole = 0xFFFFFFFE;
constexpr uint32_t kNumBytes = 256;
constexpr size_t kPrefetch = 16;  // visits ahead

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

// What one merge sees on one side of the merged pairs, gathered by the neighbour's id.
class Neighbours {
 public:
  Neighbours() = default;
  explicit Neighbours(size_t num_ids) : totals_(num_ids) {}

  struct Total {
    int64_t weight = 0;
    uint32_t num_seen = 0;
    uint32_t pair = PairIndex::kNone;
  };
  struct Seen {
    uint32_t id, position;
  };

  void add(uint32_t id, uint32_t position, int64_t weight) {
    Total& total = totals_[id];
    if (total.num_seen++ == 0) ids_.push_back(id);
    total.weight += weight;
    seen_.push_back({id, position});
  }
  void clear() {
    for (const uint32_t id : ids_) totals_[id] = Total{};
    ids_.clear();
    seen_.clear();
  }
  [[nodiscard]] Total& operator[](uint32_t id) { return totals_[id]; }
  [[nodiscard]] const std::vector<uint32_t>& ids() const { return ids_; }
  [[nodiscard]] const std::vector<Seen>& seen() const { return seen_; }

 private:
  std::vector<Total> totals_;
  std::vector<uint32_t> ids_;
  std::vector<Seen> seen_;
};

class MergeLoop {
 public:
  MergeLoop(std::vector<WeightedPiece> pieces, size_t num_merges) {
    std::erase_if(pieces, [](const WeightedPiece& piece) { return piece.bytes.size() < 2; });
    std::sort(pieces.begin(), pieces.end(),
              [](const WeightedPiece& a, const WeightedPiece& b) { return a.count > b.count; });
    lay_out(pieces);
    num_merges_ = std::min(num_merges, symbols_.size());  // each merge takes at least one symbol
    left_ = Neighbours(kNumBytes + num_merges_);
    right_ = Neighbours(kNumBytes + num_merges_);
    length_.assign(kNumBytes, 1);
    // The last of n merges is seen about (weighted bytes / n) / 70 times in natural text; half of
    // that leaves out most pairs and rarely asks for a second indexing.
    floor_ = std::max<int64_t>(1, total_weight_ / (128 * static_cast<int64_t>(num_merges_ + 1)));
  }

  std::vector<Merge> run(Training& training) {
    std::vector<Merge> merges;
    index_pairs();
    while (merges.size() < num_merges_) {
      training.check();
      const uint32_t best = pop_best();
      if (best == PairIndex::kNone) {
        if (floor_ == 1) break;
        floor_ = std::max<int64_t>(1, floor_ / 8);
        index_pairs();
        continue;
      }
      merges.push_back({pairs_[best].left, pairs_[best].right});
      apply(best);
      training.num_merges.store(static_cast<int64_t>(merges.size()), std::memory_order_relaxed);
    }
    return merges;
  }

 private:
  void lay_out(const std::vector<WeightedPiece>& pieces) {
    size_t num_cells = 1;
    for (const WeightedPiece& piece : pieces) num_cells += piece.bytes.size() + 1;
    if (num_cells >= kHole - kNumBytes) {
      throw std::length_error("train_bpe: distinct pieces must be below 4 GiB in all, got " +
                              std::to_string(num_cells) + " bytes");
    }
    symbols_.reserve(num_cells);
    symbols_.push_back(kBoundary);
    for (const WeightedPiece& piece : pieces) {
      for (const char byte : piece.bytes) symbols_.push_back(static_cast<unsigned char>(byte));
      symbols_.push_back(kBoundary);
      const auto end = static_cast<uint32_t>(symbols_.size());
      if (steps_.empty() || steps_.back().weight != piece.count)
        steps_.push_back({end, piece.count});
      steps_.back().end = end;
      total_weight_ += piece.count * static_cast<int64_t>(piece.bytes.size());
    }
  }

  // visit(left, right, position) for every adjacent pair of tokens, in order.
  template <typename Visit>
  void for_each_pair(Visit&& visit) const {
    for (size_t i = 0; i + 1 < symbols_.size();) {
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
    struct Tally {
      int64_t weight = 0;
      uint32_t num_positions = 0;
    };
    PairIndex all;
    std::vector<Tally> tallies;
    WeightCursor weights(steps_);
    for_each_pair([&](uint32_t left, uint32_t right, uint32_t position) {
      uint32_t pair = all.find(left, right);
      if (pair == PairIndex::kNone) {
        pair = all.insert({.left = left, .right = right, .positions = {}});
        tallies.emplace_back();
      }
      tallies[pair].weight += weights.at(position);
      ++tallies[pair].num_positions;
    });
    pairs_ = PairIndex();
    heap_ = {};
    for (size_t i = 0; i < tallies.size(); ++i) {
      const Pair& pair = all.pairs()[i];
      add_pair(pair.left, pair.right, tallies[i].weight, tallies[i].num_positions);
    }
    for_each_pair([&](uint32_t left, uint32_t right, uint32_t position) {
      const uint32_t pair = pairs_.find(left, right);
      if (pair != PairIndex::kNone) pairs_[pair].positions.push_back(position);
    });
  }

  uint32_t add_pair(uint32_t left, uint32_t right, int64_t count, uint32_t num_positions) {
    if (count < floor_) return PairIndex::kNone;
    const uint32_t pair =
        pairs_.insert({.left = left, .right = right, .count = count, .positions = {}});
    pairs_[pair].positions.reserve(num_positions);
    heap_.push({count, left, right, pair});
    return pair;
  }

  void take_from_pair(uint32_t left, uint32_t right, int64_t weight) {
    const uint32_t pair = pairs_.find(left, right);
    if (pair != PairIndex::kNone) pairs_[pair].count -= weight;
  }

  // The most frequent pair, or kNone when none reaches floor_.
  uint32_t pop_best() {
    while (!heap_.empty()) {
      Candidate top = heap_.top();
      heap_.pop();
      const int64_t count = pairs_[top.pair].count;
      if (count < floor_) {
        pairs_[top.pair].positions = {};
      } else if (count < top.count) {
        top.count = count;
        heap_.push(top);
      } else {
        return top.pair;
      }
    }
    return PairIndex::kNone;
  }

  // Replaces every occurrence of the pair, left to right, by a new id, and updates all counts.
  void apply(uint32_t best) {
    const uint32_t a = pairs_[best].left;
    const uint32_t b = pairs_[best].right;
    const std::vector<uint32_t> positions = std::move(pairs_[best].positions);
    const uint32_t length_a = length_[a];
    const uint32_t length_ab = length_a + length_[b];
    const auto id = static_cast<uint32_t>(length_.size());
    length_.push_back(length_ab);

    int64_t twin_weight = 0;  // of (id, id)
    std::vector<uint32_t> twins;
    WeightCursor weights(steps_);
    for (size_t k = 0; k < positions.size(); ++k) {
      if (k + kPrefetch < positions.size())
        __builtin_prefetch(&symbols_[positions[k + kPrefetch]], 1);
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
        twin_weight += weight;
        twins.push_back(i - length_ab);
      } else if (before != kBoundary) {
        left_.add(before, i - length_[before], weight);
      }
      if (after != kBoundary) right_.add(after, i, weight);
    }

    for (const uint32_t before : left_.ids()) take_from_pair(before, a, left_[before].weight);
    for (const uint32_t after : right_.ids()) take_from_pair(b, after, right_[after].weight);
    pairs_[best].count = 0;
    // (id, a) was counted where the second of two adjacent occurrences had not been merged yet.
    if (twin_weight != 0) right_[a].weight -= twin_weight;

    for (const uint32_t before : left_.ids()) {
      left_[before].pair = add_pair(before, id, left_[before].weight, left_[before].num_seen);
    }
    for (const uint32_t after : right_.ids()) {
      right_[after].pair = add_pair(id, after, right_[after].weight, right_[after].num_seen);
    }
    const uint32_t twin = add_pair(id, id, twin_weight, 0);
    if (twin != PairIndex::kNone) pairs_[twin].positions = std::move(twins);
    for (Neighbours* side : {&left_, &right_}) {
      for (const auto& [neighbour, position] : side->seen()) {
        const uint32_t pair = (*side)[neighbour].pair;
        if (pair != PairIndex::kNone) pairs_[pair].positions.push_back(position);
      }
      side->clear();
    }
  }

  size_t num_merges_ = 0;
  std::vector<uint32_t> symbols_;
  std::vector<WeightStep> steps_;
  std::vector<uint32_t> length_;  // bytes of a token
  int64_t total_weight_ = 0;
  int64_t floor_ = 1;
  PairIndex pairs_;
  std::priority_queue<Candidate, std::vector<Candidate>, ComesLater> heap_;
  Neighbours left_, right_;
};

}  // namespace

std::vector<Merge> learn_merges(std::vector<WeightedPiece> pieces, size_t num_merges,
                                Training& training) {
  return MergeLoop(std::move(pieces), num_merges).run(training);
}

}  // namespace nanochat::bpe
