#include "bpe/piece_merger.h"

#include <algorithm>
#include <functional>
#include <stdexcept>

namespace nanochat::bpe {
namespace {

constexpr uint32_t kNone = Vocabulary::kNone;
constexpr size_t kMaxShort = 96;              // bytes; about where both ways cost the same
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
  return piece.size() <= kMaxShort ? merge_short(vocabulary, piece) : merge_long(vocabulary, piece);
}

std::span<const uint32_t> PieceMerger::merge_short(const Vocabulary& vocabulary,
                                                   std::string_view piece) {
  size_t n = piece.size();
  ids_.resize(std::max(ids_.size(), kMaxShort));
  joins_.resize(std::max(joins_.size(), kMaxShort));
  uint32_t* const ids = ids_.data();
  uint32_t* const joins = joins_.data();  // joins[i]: of tokens i and i + 1
  for (size_t i = 0; i < n; ++i) ids[i] = vocabulary.find(byte_at(piece, i));
  for (size_t i = 0; i + 1 < n; ++i) {
    joins[i] = vocabulary.join(byte_at(piece, i), byte_at(piece, i + 1));
  }
  while (n > 1) {
    const uint32_t* const best = std::min_element(joins, joins + n - 1);
    const uint32_t id = *best;
    if (id == kNone) break;
    const auto i = static_cast<size_t>(best - joins);
    ids[i] = id;
    std::copy(ids + i + 2, ids + n, ids + i + 1);
    --n;
    if (i + 1 < n) {
      std::copy(joins + i + 2, joins + n, joins + i + 1);
      joins[i] = vocabulary.join(id, ids[i + 1]);
    }
    if (i > 0) joins[i - 1] = vocabulary.join(ids[i - 1], id);
  }
  return {ids, n};
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
