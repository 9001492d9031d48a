#include "bpe/piece_counter.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "bpe/pretokenize.h"

namespace nanochat::bpe {
namespace {

constexpr size_t kInlineBytes = 15;
constexpr uint64_t kLong = 0xFF;  // top byte of word[1]
constexpr int kTagShift = 56;
constexpr uint64_t kTagMask = kLong << kTagShift;
constexpr size_t kBatch = 32;  // pieces; enough misses in flight to saturate one core
constexpr size_t kInitialSlots = 1 << 12;

// Folds a 128-bit product: every bit of the result depends on every bit of a and of b.
uint64_t mix(uint64_t a, uint64_t b) {
  __extension__ using Uint128 = unsigned __int128;
  const Uint128 product = static_cast<Uint128>(a ^ 0x9E3779B97F4A7C15) * (b ^ 0xD1B54A32D192ED03);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t low_bytes(size_t n) {
  return n >= 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * n)) - 1;
}

uint64_t hash_bytes(std::string_view piece) {
  uint64_t hash = piece.size();
  size_t i = 0;
  for (; i + 8 <= piece.size(); i += 8) {
    uint64_t x;
    std::memcpy(&x, piece.data() + i, 8);
    hash = mix(hash, x);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, piece.data() + i, piece.size() - i);
  return mix(hash, rest);
}

}  // namespace

// Written word by word: a slot returned by value is stored in halves, loaded whole and stalls.
inline void PieceCounter::make_key(std::string_view piece, const char* readable_end, Slot& key) {
  const size_t size = piece.size();
  key.count = 1;
  if (size > kInlineBytes) {
    key.word[0] = 0;
    key.word[1] = kTagMask | size;
    key.hash = hash_bytes(piece);
    return;
  }
  uint64_t words[2] = {0, 0};
  if (readable_end - piece.data() >= 16) {  // two loads and masks, not a copy of `size` bytes
    std::memcpy(words, piece.data(), 16);
    words[0] &= low_bytes(size);
    words[1] &= low_bytes(size - std::min<size_t>(size, 8));
  } else {
    std::memcpy(words, piece.data(), size);
  }
  key.word[0] = words[0];
  key.word[1] = words[1] | static_cast<uint64_t>(size) << kTagShift;
  key.hash = mix(key.word[0], key.word[1]);
}

PieceCounter::PieceCounter() : slots_(kInitialSlots) {}

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

void PieceCounter::add_document(std::string_view text) {
  std::array<size_t, kBatch> ends;
  std::array<Slot, kBatch> keys;
  const char* const readable_end = text.data() + text.size();
  size_t begin = 0;
  for (;;) {
    const size_t n = pretokenize(text, begin, ends);
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
    if (n < kBatch) return;
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
