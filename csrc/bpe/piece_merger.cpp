#include "bpe/piece_merger.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <limits>
#include <stdexcept>

namespace nanochat::bpe {
namespace {

constexpr uint32_t kNone = Vocabulary::kNone;
constexpr size_t kMaxKept = size_t{1} << 18;  // cells of workspace that outlive a call

unsigned char byte_at(std::string_view piece, size_t i) {
  return static_cast<unsigned char>(piece[i]);
}

}  // namespace

void PieceMerger::Places::sort() {
  if (!is_sorted) std::sort(at.begin() + static_cast<std::ptrdiff_t>(next), at.end());
  is_sorted = true;
}

std::span<const uint32_t> PieceMerger::merge(const Vocabulary& vocabulary, std::string_view piece) {
  if (ids_.size() > kMaxKept && piece.size() <= kMaxKept) *this = PieceMerger();
  if (piece.size() <= 16) return merge_short<16>(vocabulary, piece);
  if (piece.size() <= 32) return merge_short<32>(vocabulary, piece);
  if (piece.size() <= 64) return merge_short<64>(vocabulary, piece);
  return merge_long(vocabulary, piece);
}

// Token i begins at byte i; `begins` has a bit for each. The join of token i with the next one
// stands in candidates[i] as join << kPlaceBits | i, so the least candidate is the join to make and
// its place, and finding it takes the same few vector instructions for any content.
template <int kLanes>
std::span<const uint32_t> PieceMerger::merge_short(const Vocabulary& vocabulary,
                                                   std::string_view piece) {
  constexpr int kPlaceBits = 6;
  constexpr int32_t kNever = std::numeric_limits<int32_t>::max();
  static_assert(kLanes <= 1 << kPlaceBits && Vocabulary::kIdBits + kPlaceBits < 31);
  const auto n = static_cast<int>(piece.size());
  std::array<uint32_t, kLanes> ids;
  std::array<int32_t, kLanes> candidates;
  const auto propose = [&](int place, uint32_t join) {
    candidates[static_cast<size_t>(place)] =
        join == kNone ? kNever : static_cast<int32_t>(join << kPlaceBits) | place;
  };
  candidates.fill(kNever);
  for (int i = 0; i < n; ++i) ids[i] = vocabulary.find(byte_at(piece, i));
  for (int i = 0; i + 1 < n; ++i) {
    propose(i, vocabulary.join(byte_at(piece, i), byte_at(piece, i + 1)));
  }
  uint64_t begins = n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
  for (;;) {
    std::array<int32_t, 4> least = {kNever, kNever, kNever, kNever};
    for (size_t i = 0; i < kLanes; i += 4) {
      for (size_t k = 0; k < 4; ++k) least[k] = std::min(least[k], candidates[i + k]);
    }
    const int32_t best = std::min({least[0], least[1], least[2], least[3]});
    if (best == kNever) break;
    const int place = best & ((1 << kPlaceBits) - 1);
    const auto id = static_cast<uint32_t>(best >> kPlaceBits);
    uint64_t after = begins & (~uint64_t{1} << place);
    candidates[static_cast<size_t>(std::countr_zero(after))] = kNever;
    begins ^= after & (0 - after);
    after &= after - 1;
    ids[place] = id;
    propose(place, after == 0 ? kNone : vocabulary.join(id, ids[std::countr_zero(after)]));
    if (const uint64_t before = begins & ((uint64_t{1} << place) - 1); before != 0) {
      const int previous = 63 - std::countl_zero(before);
      propose(previous, vocabulary.join(ids[previous], id));
    }
  }
  ids_.clear();
  for (; begins != 0; begins &= begins - 1) ids_.push_back(ids[std::countr_zero(begins)]);
  return ids_;
}

// A token of n bytes keeps its n cells: its id stands in the first and in the last. Cell i of
// joins_ is the join of the token that begins at i with the next one, kNone where no token begins.
// A place queued for a join is good if joins_ still says so.
std::span<const uint32_t> PieceMerger::merge_long(const Vocabulary& vocabulary,
                                                  std::string_view piece) {
  const size_t n = piece.size();
  if (n >= kNone) {
    throw std::length_error("tokenizer: a piece of text must be below 4 GiB, got " +
                            std::to_string(n) + " bytes");
  }
  const auto size_of = [&](uint32_t id) { return vocabulary.token(id).size(); };
  const auto by_lowest = std::greater<>();
  places_.resize(vocabulary.size());
  ids_.resize(std::max(ids_.size(), n));
  joins_.resize(std::max(joins_.size(), n));

  const auto queue_up = [&](uint32_t join) {
    queue_.push_back(join);
    std::push_heap(queue_.begin(), queue_.end(), by_lowest);
  };
  const auto enqueue = [&](size_t place, uint32_t join) {
    joins_[place] = join;
    if (join == kNone) return;
    if (places_[join].empty()) queue_up(join);
    places_[join].add(static_cast<uint32_t>(place));
  };
  for (size_t i = 0; i < n; ++i) ids_[i] = vocabulary.find(byte_at(piece, i));
  for (size_t i = 0; i + 1 < n; ++i) {
    enqueue(i, vocabulary.join(byte_at(piece, i), byte_at(piece, i + 1)));
  }
  joins_[n - 1] = kNone;

  while (!queue_.empty()) {
    std::pop_heap(queue_.begin(), queue_.end(), by_lowest);
    const uint32_t id = queue_.back();
    queue_.pop_back();
    const size_t size = size_of(id);
    Places& places = places_[id];
    places.sort();
    while (!places.empty()) {
      const size_t i = places.at[places.next++];
      if (joins_[i] != id) continue;
      const size_t middle = i + size_of(ids_[i]);
      const size_t end = i + size;
      joins_[middle] = kNone;
      ids_[i] = ids_[end - 1] = id;
      // A join with the new token is longer than it: never queued for the id at hand.
      enqueue(i, end < n ? vocabulary.join(id, ids_[end]) : kNone);
      if (i > 0) {
        const uint32_t before = ids_[i - 1];
        enqueue(i - size_of(before), vocabulary.join(before, id));
      }
      if (!queue_.empty() && queue_.front() < id) break;  // a lower one has come up: it goes first
    }
    if (places.empty()) {
      places.clear();
    } else {
      queue_up(id);
    }
  }

  size_t num_ids = 0;
  for (size_t i = 0; i < n; i += size_of(ids_[i])) ids_[num_ids++] = ids_[i];
  return {ids_.data(), num_ids};
}

}  // namespace nanochat::bpe
