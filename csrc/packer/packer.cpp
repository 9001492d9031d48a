#include "packer/packer.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <functional>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

#include "common/check.h"

namespace nanochat::packer {
namespace {

constexpr double kMaxPadding = 0.01;  // share of padding from which on rows are dissolved
constexpr int64_t kMinGap = 32;       // a gap of less than 1 / 32 of a row is not worth a cut
constexpr int64_t kNone = -1;

// Rows on offer, findable by the room that is left in them: a stack of rows for each gap, and a bit
// for each stack that is not empty. A search reads at most T / 64 words.
class Offers {
 public:
  explicit Offers(int64_t capacity)
      : has_rows_(static_cast<size_t>(capacity / 64 + 1)),
        top_(static_cast<size_t>(capacity + 1), kNone) {}

  void push(int64_t row, int64_t gap) {
    if (row >= std::ssize(below_)) below_.resize(static_cast<size_t>(row) + 1, kNone);
    below_[row] = std::exchange(top_[gap], row);
    has_rows_[gap / 64] |= uint64_t{1} << (gap % 64);
  }

  // The row with the least room of at least `size`, the latest pushed among equals; kNone if there
  // is none.
  [[nodiscard]] int64_t pop_fitting(int64_t size) {
    uint64_t above = ~uint64_t{0} << (size % 64);
    for (size_t word = static_cast<size_t>(size / 64); word < has_rows_.size(); ++word) {
      const uint64_t found = has_rows_[word] & above;
      if (found != 0) return pop(static_cast<int64_t>(word) * 64 + std::countr_zero(found));
      above = ~uint64_t{0};
    }
    return kNone;
  }

  // The row with the most room, if that is at least `min_gap`.
  [[nodiscard]] int64_t pop_emptiest(int64_t min_gap) {
    for (int64_t word = std::ssize(has_rows_) - 1; word >= min_gap / 64; --word) {
      if (has_rows_[word] == 0) continue;
      const int64_t gap = word * 64 + 63 - std::countl_zero(has_rows_[word]);
      return gap >= min_gap ? pop(gap) : kNone;
    }
    return kNone;
  }

 private:
  int64_t pop(int64_t gap) {
    const int64_t row = top_[gap];
    top_[gap] = below_[row];
    if (top_[gap] == kNone) has_rows_[gap / 64] &= ~(uint64_t{1} << (gap % 64));
    return row;
  }

  std::vector<uint64_t> has_rows_;  // bit g: some row has g tokens of room
  std::vector<int64_t> top_;        // by gap
  std::vector<int64_t> below_;      // by row: the next in its stack
};

// Rows being filled. Chunks are named by their index and chained within a row, in the order in
// which they came.
class Bins {
 public:
  Bins(int64_t capacity, std::vector<Chunk> chunks)
      : capacity_(capacity),
        min_gap_(std::max<int64_t>(2, capacity / kMinGap)),
        chunks_(std::move(chunks)),
        next_(chunks_.size(), kNone),
        offers_(capacity) {}

  // Each chunk where the least room remains, in a new row if it fits nowhere.
  void place_all() {
    for (int64_t chunk = 0; chunk < std::ssize(chunks_); ++chunk) {
      int64_t row = offers_.pop_fitting(chunks_[chunk].size);
      if (row == kNone) {
        row = std::ssize(rows_);
        rows_.push_back({.gap = capacity_});
      }
      append(row, chunk);
      offers_.push(row, rows_[row].gap);
    }
  }

  // Dissolves the emptiest rows into the gaps of the others while much padding is left.
  void fill_gaps() {
    int64_t padding = 0;
    for (const Row& row : rows_) padding += row.gap;
    int64_t num_rows = std::ssize(rows_);
    while (static_cast<double>(padding) >
           kMaxPadding * static_cast<double>(capacity_) * static_cast<double>(num_rows)) {
      const int64_t row = offers_.pop_emptiest(min_gap_);
      if (row == kNone) return;
      int64_t chunk = std::exchange(rows_[row], {.gap = capacity_}).first;
      while (chunk != kNone) {
        const int64_t next = next_[chunk];
        if (!scatter(chunk)) append(row, chunk);
        chunk = next;
      }
      if (rows_[row].first != kNone) return;  // no gap is left that is worth a cut
      padding -= capacity_;  // the BOS of new cuts, not counted, make it smaller still
      --num_rows;
    }
  }

  [[nodiscard]] Plan plan(int64_t num_tokens) const {
    Plan plan{.seq_len = capacity_ - 1, .num_tokens = num_tokens, .chunks = {}, .first_chunk = {0}};
    plan.chunks.reserve(chunks_.size());
    for (const Row& row : rows_) {
      if (row.first == kNone) continue;  // dissolved
      for (int64_t chunk = row.first; chunk != kNone; chunk = next_[chunk]) {
        plan.chunks.push_back(chunks_[chunk]);
      }
      plan.first_chunk.push_back(std::ssize(plan.chunks));
    }
    return plan;
  }

 private:
  struct Row {
    int64_t gap;
    int64_t first = kNone;
    int64_t last = kNone;
  };

  void append(int64_t row_index, int64_t chunk) {
    Row& row = rows_[row_index];
    (row.last == kNone ? row.first : next_[row.last]) = chunk;
    row.last = chunk;
    row.gap -= chunks_[chunk].size;
    next_[chunk] = kNone;
  }

  // Spreads the chunk over the gaps of rows on offer; false if what is left of it found no place.
  [[nodiscard]] bool scatter(int64_t chunk) {
    while (true) {
      if (const int64_t row = offers_.pop_fitting(chunks_[chunk].size); row != kNone) {
        append(row, chunk);
        offers_.push(row, rows_[row].gap);
        return true;
      }
      const int64_t row = offers_.pop_emptiest(min_gap_);
      if (row == kNone) return false;
      append(row, cut_head(chunk, rows_[row].gap));  // fills the row
    }
  }

  // A new chunk of `size` from the front of `chunk`, which keeps the rest; each has its BOS.
  [[nodiscard]] int64_t cut_head(int64_t chunk, int64_t size) {
    Chunk& rest = chunks_[chunk];
    const Chunk head{.size = size, .start = rest.start, .is_first = rest.is_first, .is_open = true};
    rest.size -= size - 1;
    rest.start += size - 1;
    rest.is_first = false;
    chunks_.push_back(head);
    next_.push_back(kNone);
    return std::ssize(chunks_) - 1;
  }

  int64_t capacity_;
  int64_t min_gap_;
  std::vector<Chunk> chunks_;
  std::vector<int64_t> next_;  // of each chunk, in its row
  std::vector<Row> rows_;
  Offers offers_;
};

void check_documents(std::span<const int64_t> offsets, const Mask& mask) {
  check(!offsets.empty(), "packer: offsets must begin with 0, got nothing");
  check(offsets.front() == 0, "packer: offsets must begin with 0, got ", offsets.front());
  for (size_t i = 1; i < offsets.size(); ++i) {
    check(offsets[i - 1] <= offsets[i], "packer: offsets must ascend, got ", offsets[i], " behind ",
          offsets[i - 1], " at index ", i);
  }
  check(!mask || std::ssize(*mask) == offsets.back(), "packer: mask must have ", offsets.back(),
        " entries, got ", mask ? mask->size() : 0);
}

// Texts in pieces of at most T tokens.
std::vector<Chunk> cut_texts(std::span<const int64_t> offsets, int64_t seq_len) {
  std::vector<Chunk> chunks;
  chunks.reserve(offsets.size());
  for (size_t i = 1; i < offsets.size(); ++i) {
    const int64_t begin = offsets[i - 1], end = offsets[i];
    for (int64_t start = begin; start < end; start += seq_len) {
      const int64_t length = std::min(end - start, seq_len);
      chunks.push_back({.size = length + 1,
                        .start = start,
                        .is_first = start == begin,
                        .is_open = start + length < end});
    }
  }
  return chunks;
}

// Conversations in one piece each, without what is beyond T tokens; dropped if no target is left.
std::vector<Chunk> clip_conversations(std::span<const int64_t> offsets,
                                      std::span<const uint8_t> mask, int64_t seq_len) {
  std::vector<Chunk> chunks;
  chunks.reserve(offsets.size());
  for (size_t i = 1; i < offsets.size(); ++i) {
    const int64_t start = offsets[i - 1];
    const int64_t length = std::min(offsets[i] - start, seq_len);
    const auto own = mask.subspan(static_cast<size_t>(start), static_cast<size_t>(length));
    if (std::ranges::any_of(own, [](uint8_t learnt) { return learnt != 0; })) {
      chunks.push_back({.size = length + 1, .start = start, .is_first = true, .is_open = false});
    }
  }
  return chunks;
}

// Ids that no int32 row can hold have the top bit set, negative ones too.
template <typename Id>
void check_ids(std::span<const Id> ids) {
  const auto is_id = [](Id id) {
    return std::in_range<int32_t>(id) && std::cmp_greater_equal(id, 0);
  };
  const Id all = std::reduce(ids.begin(), ids.end(), Id{0}, std::bit_or{});
  if (is_id(all)) return;
  const auto bad = std::ranges::find_if_not(ids, is_id);
  check(false, "packer: ids must be 0 to ", std::numeric_limits<int32_t>::max(), ", got ", *bad,
        " at index ", bad - ids.begin());
}

// The numbers below `words.size()`, by rising word.
std::vector<int64_t> permutation(std::span<const uint64_t> words) {
  std::vector<int64_t> order(words.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::less{}, [&](int64_t i) { return words[i]; });
  return order;
}

}  // namespace

Plan plan_rows(std::span<const int64_t> offsets, const Mask& mask, int64_t seq_len) {
  check(seq_len >= 1 && seq_len < std::numeric_limits<int32_t>::max(),
        "packer: seq_len must be 1 to ", std::numeric_limits<int32_t>::max() - 1, ", got ",
        seq_len);
  check_documents(offsets, mask);
  auto chunks = mask ? clip_conversations(offsets, *mask, seq_len) : cut_texts(offsets, seq_len);
  std::ranges::stable_sort(chunks, std::greater{}, &Chunk::size);
  Bins bins(seq_len + 1, std::move(chunks));
  bins.place_all();
  if (!mask) bins.fill_gaps();
  return bins.plan(offsets.back());
}

template <typename Id>
void write_rows(const Plan& plan, std::span<const Id> ids, const Mask& mask, int32_t bos,
                std::span<const uint64_t> row_words, std::span<const uint64_t> chunk_words,
                const Rows& out) {
  const int64_t N = plan.num_rows(), T = plan.seq_len;
  check(std::ssize(ids) == plan.num_tokens, "packer: offsets must end with the number of ids, ",
        ids.size(), ", got ", plan.num_tokens);
  check(!mask || std::ssize(*mask) == plan.num_tokens, "packer: mask must have ", plan.num_tokens,
        " entries, got ", mask ? mask->size() : 0);
  check(bos >= 0, "packer: bos must be an id, got ", bos);
  check(std::ssize(row_words) == N, "packer: row_words must have ", N, " entries, got ",
        row_words.size());
  check(std::ssize(chunk_words) == plan.num_chunks(), "packer: chunk_words must have ",
        plan.num_chunks(), " entries, got ", chunk_words.size());
  check_ids(ids);
  assert(std::ssize(out.ids) == N * (T + 1) && std::ssize(out.targets) == N * T);
  assert(std::ssize(out.num_padding) == N && std::ssize(out.num_documents) == N);

  const auto place = permutation(row_words);
  std::vector<int64_t> order;  // of the chunks of a row
  for (int64_t row = 0; row < N; ++row) {
    order.resize(static_cast<size_t>(plan.first_chunk[row + 1] - plan.first_chunk[row]));
    std::iota(order.begin(), order.end(), plan.first_chunk[row]);
    // An open chunk fills its row, so it comes last: what follows a chunk is always a true end.
    std::ranges::sort(order, std::less{}, [&](int64_t chunk) {
      return std::tuple(plan.chunks[chunk].is_open, chunk_words[chunk], chunk);
    });
    int32_t* const row_ids = out.ids.data() + place[row] * (T + 1);
    int32_t* const row_targets = out.targets.data() + place[row] * T;
    int64_t filled = 0;
    int64_t num_documents = 0;
    for (const int64_t index : order) {
      const Chunk& chunk = plan.chunks[index];
      const int64_t length = chunk.size - 1;
      const Id* const tokens = ids.data() + chunk.start;
      row_ids[filled] = bos;
      if (filled > 0) row_targets[filled - 1] = mask ? kIgnore : bos;  // a text's end is learnt too
      std::copy_n(tokens, length, row_ids + filled + 1);
      if (mask) {
        const uint8_t* const learnt = mask->data() + chunk.start;
        for (int64_t i = 0; i < length; ++i) {
          const auto id = static_cast<int32_t>(tokens[i]);
          row_targets[filled + i] = learnt[i] != 0 ? id : kIgnore;
        }
      } else {
        std::copy_n(tokens, length, row_targets + filled);
      }
      filled += chunk.size;
      num_documents += chunk.is_first;
    }
    std::fill(row_ids + filled, row_ids + T + 1, bos);
    std::fill(row_targets + filled - 1, row_targets + T, kIgnore);
    out.num_padding[place[row]] = T + 1 - filled;
    out.num_documents[place[row]] = num_documents;
  }
}

template void write_rows(const Plan&, std::span<const uint16_t>, const Mask&, int32_t,
                         std::span<const uint64_t>, std::span<const uint64_t>, const Rows&);
template void write_rows(const Plan&, std::span<const uint32_t>, const Mask&, int32_t,
                         std::span<const uint64_t>, std::span<const uint64_t>, const Rows&);
template void write_rows(const Plan&, std::span<const int32_t>, const Mask&, int32_t,
                         std::span<const uint64_t>, std::span<const uint64_t>, const Rows&);

}  // namespace nanochat::packer
