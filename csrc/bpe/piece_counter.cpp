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
inline void PieceCounter::make_key(std::string_view piece, const char* readable_end, Slot& key) {
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

PieceCounter::PieceCounter(Splitter splitter) : splitter_(splitter), slots_(kInitialSlots) {}

std::string_view PieceCounter::piece_of(const Slot& slot) const {
  const uint64_t tag = slot.word[1] >> kTagShift;
  if (tag == kLong) return std::string_view(arena_).substr(slot.word[0], slot.word[1] & ~kTagMask);
  return {reinterpret_cast<const char*>(slot.word), static_cast<size_t>(tag)};
}

bool PieceCounter::holds(const Slot& slot, const Slot& key, std::string_view piece) const {
  if (slot.hash != key.hash || slot.word[1] != key.word[1]) return false;
  return (key.word[1] >> kTagShift) == kLong ? piece_of(slot) == piece
                                             : slot.word[0] == key.word[0];
}

void PieceCounter::add(const Slot& key, std::string_view piece) {
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

void PieceCounter::reserve(size_t num_more) {
  const size_t needed = (size_ + num_more) * 3 / 2;  // at most two thirds full
  if (needed <= slots_.size()) return;
  std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(std::bit_ceil(needed)));
  const size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.is_free()) continue;
    size_t i = slot.hash & mask;
    while (!slots_[i].is_free()) i = (i + 1) & mask;
    slots_[i] = slot;
  }
}

void PieceCounter::add_text(std::string_view text, Training& training) {
  std::array<size_t, kBatch> ends;
  std::array<Slot, kBatch> keys;
  const char* const readable_end = text.data() + text.size();
  size_t begin = 0, reported = 0;
  for (size_t n = kBatch; n == kBatch;) {
    n = pretokenize(splitter_, text, begin, ends);
    reserve(n);
    const size_t mask = slots_.size() - 1;
    size_t piece_begin = begin;
    for (size_t i = 0; i < n; ++i) {
      make_key({text.data() + piece_begin, ends[i] - piece_begin}, readable_end, keys[i]);
      __builtin_prefetch(&slots_[keys[i].hash & mask], 1);
      piece_begin = ends[i];
    }
    for (size_t i = 0; i < n; ++i) {
      add(keys[i], {text.data() + begin, ends[i] - begin});
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

void PieceCounter::absorb(const PieceCounter& other, size_t part, size_t num_parts) {
  for (const Slot& slot : other.slots_) {
    // The low bits choose the slot, so the part comes from the high ones.
    if (slot.is_free() || (slot.hash >> 32) % num_parts != part) continue;
    reserve(1);
    add(slot, other.piece_of(slot));
  }
}

}  // namespace nanochat::bpe
