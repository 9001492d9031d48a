#include "bpe/piece_counter.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "bpe/piece_key.h"

namespace nanochat::bpe {
namespace {

constexpr uint64_t kLong = 0xFF;  // top byte of word[1]
constexpr int kTagShift = 56;
constexpr uint64_t kTagMask = kLong << kTagShift;
constexpr size_t kBatch = 32;             // pieces; enough misses in flight to saturate one core
constexpr size_t kReportBytes = 1 << 20;  // some milliseconds of work
constexpr size_t kInitialSlots = 1 << 12;

}  // namespace

// Written word by word: a slot returned by value is stored in halves, loaded whole and stalls.
inline void PieceTable::make_key(std::string_view piece, const char* readable_end, Slot& key) {
  key.count = 1;
  if (piece.size() > kShortBytes) {
    key.word[0] = 0;
    key.word[1] = kTagMask | piece.size();
    key.hash = hash_bytes(piece);
    return;
  }
  const ShortKey words = short_key(piece, readable_end);
  key.word[0] = words.word[0];
  key.word[1] = words.word[1];
  key.hash = words.hash();
}

PieceTable::PieceTable() : slots_(kInitialSlots) {}

std::string_view PieceTable::piece_of(const Slot& slot) const {
  const uint64_t tag = slot.word[1] >> kTagShift;
  if (tag == kLong) return std::string_view(arena_).substr(slot.word[0], slot.word[1] & ~kTagMask);
  return {reinterpret_cast<const char*>(slot.word), static_cast<size_t>(tag)};
}

bool PieceTable::holds(const Slot& slot, const Slot& key, std::string_view piece) const {
  if (slot.hash != key.hash || slot.word[1] != key.word[1]) return false;
  return (key.word[1] >> kTagShift) == kLong ? piece_of(slot) == piece
                                             : slot.word[0] == key.word[0];
}

void PieceTable::prefetch(uint64_t hash) const {
  __builtin_prefetch(&slots_[hash & (slots_.size() - 1)], 1);
}

void PieceTable::add(const Slot& key, std::string_view piece) {
  const size_t mask = slots_.size() - 1;
  size_t i = key.hash & mask;
  for (; !slots_[i].is_free(); i = (i + 1) & mask) {
    if (holds(slots_[i], key, piece)) {
      slots_[i].count += key.count;
      return;
    }
  }
  slots_[i] = key;
  if ((key.word[1] >> kTagShift) == kLong) {
    slots_[i].word[0] = arena_.size();
    arena_.append(piece);
  }
  ++size_;
}

void PieceTable::reserve(size_t num_more) {
  const size_t needed = (size_ + num_more) * 3 / 2;  // at most two thirds full
  if (needed <= slots_.size()) return;
  const HugeArray<Slot> old = std::exchange(slots_, HugeArray<Slot>(std::bit_ceil(needed)));
  const size_t mask = slots_.size() - 1;
  for (size_t k = 0; k < old.size(); ++k) {
    if (old[k].is_free()) continue;
    size_t i = old[k].hash & mask;
    while (!slots_[i].is_free()) i = (i + 1) & mask;
    slots_[i] = old[k];
  }
}

template <typename Visit>
void PieceTable::for_each_batch(const PieceTable& other, const Training& training, Visit&& visit) {
  std::array<const Slot*, kBatch> batch;
  for (size_t i = 0; i < other.slots_.size();) {
    size_t n = 0;
    for (; n < kBatch && i < other.slots_.size(); ++i) {
      if (!other.slots_[i].is_free()) batch[n++] = &other.slots_[i];
    }
    training.check();
    for (size_t k = 0; k < n; ++k) prefetch(batch[k]->hash);
    for (size_t k = 0; k < n; ++k) visit(*batch[k]);
  }
}

void PieceTable::add_all_of(const PieceTable& other, const Training& training) {
  for_each_batch(other, training, [&](const Slot& slot) {
    reserve(1);
    add(slot, other.piece_of(slot));
  });
}

void PieceTable::add_counts_of(const PieceTable& other, const Training& training,
                               const std::function<void(std::string_view, int64_t)>& is_new) {
  const size_t mask = slots_.size() - 1;
  for_each_batch(other, training, [&](const Slot& slot) {
    const std::string_view piece = other.piece_of(slot);
    for (size_t i = slot.hash & mask; !slots_[i].is_free(); i = (i + 1) & mask) {
      if (holds(slots_[i], slot, piece)) {
        slots_[i].count += slot.count;
        return;
      }
    }
    is_new(piece, slot.count);
  });
}

void PieceCounter::add_text(std::string_view text, Training& training) {
  std::array<size_t, kBatch> ends;
  std::array<PieceTable::Slot, kBatch> keys;
  const char* const readable_end = text.data() + text.size();
  size_t begin = 0, reported = 0;
  for (size_t n = kBatch; n == kBatch;) {
    n = pretokenize(splitter_, text, begin, ends);
    for (PieceTable& part : parts_) part.reserve(n);
    size_t piece_begin = begin;
    for (size_t i = 0; i < n; ++i) {
      PieceTable::make_key({text.data() + piece_begin, ends[i] - piece_begin}, readable_end,
                           keys[i]);
      part_of(keys[i].hash).prefetch(keys[i].hash);
      piece_begin = ends[i];
    }
    for (size_t i = 0; i < n; ++i) {
      part_of(keys[i].hash).add(keys[i], {text.data() + begin, ends[i] - begin});
      begin = ends[i];
    }
    if (begin - reported >= kReportBytes || n < kBatch) {
      training.num_bytes.fetch_add(static_cast<int64_t>(begin - reported),
                                   std::memory_order_relaxed);
      training.check();
      reported = begin;
    }
  }
}

}  // namespace nanochat::bpe
