// An exact multiset of pieces: open addressing over slots of 32 bytes, two to a cache line.
//
// A piece of up to 15 bytes lives inside its slot, so counting one touches a single line; longer
// ones (rare) live in an arena. Pieces are counted in batches: all slots of a batch are prefetched
// before the first is read, which hides the memory latency of tables larger than the cache.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/pretokenize.h"
#include "bpe/training.h"
#include "common/huge_array.h"

namespace nanochat::bpe {

// Two lines, since they are fetched in pairs: what one thread writes often is on no line of
// another.
constexpr size_t kOwnLines = 128;

class alignas(kOwnLines) PieceTable {
 public:
  PieceTable();

  // Adds the pieces of `other`.
  void add_all_of(const PieceTable& other, const Training& training);

  // Adds the counts of those pieces of `other` that are here, and calls is_new(piece, count) for
  // the rest: no table has to grow for what is only going to be listed.
  void add_counts_of(const PieceTable& other, const Training& training,
                     const std::function<void(std::string_view piece, int64_t count)>& is_new);

  [[nodiscard]] size_t size() const { return size_; }

  // fn(std::string_view piece, int64_t count) for every distinct piece, in no useful order.
  template <typename Fn>
  void for_each(Fn&& fn) const {
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (!slots_[i].is_free()) fn(piece_of(slots_[i]), slots_[i].count);
    }
  }

 private:
  friend class PieceCounter;

  // word[1]'s top byte is the length, 1..15, of a piece stored in the 15 bytes before it, or kLong:
  // then word[0] is the offset in the arena and the rest of word[1] the length. 0 marks a free
  // slot.
  struct Slot {
    uint64_t word[2];
    uint64_t hash;
    int64_t count;
    [[nodiscard]] bool is_free() const { return word[1] == 0; }
  };
  static_assert(sizeof(Slot) == 32);

  static void make_key(std::string_view piece, const char* readable_end, Slot& key);
  [[nodiscard]] std::string_view piece_of(const Slot& slot) const;
  [[nodiscard]] bool holds(const Slot& slot, const Slot& key, std::string_view piece) const;
  void prefetch(uint64_t hash) const;
  void add(const Slot& key, std::string_view piece);
  void reserve(size_t num_more);
  // visit(slot) for every slot of `other` in use, once the slot here that it maps to is on its way.
  template <typename Visit>
  void for_each_batch(const PieceTable& other, const Training& training, Visit&& visit);

  HugeArray<Slot> slots_;  // a power of two
  std::string arena_;
  size_t size_ = 0;
};

// Counts the pieces of texts, in parts by hash: so that each thread can combine one part of the
// counters of all threads.
class alignas(kOwnLines) PieceCounter {
 public:
  PieceCounter(Splitter splitter, size_t num_parts) : splitter_(splitter), parts_(num_parts) {}

  // Counts the pieces of one text.
  void add_text(std::string_view text, Training& training);

  [[nodiscard]] PieceTable& part(size_t part) { return parts_[part]; }

 private:
  // Slots are chosen by the low bits of the hash, so the part comes from the high ones.
  [[nodiscard]] PieceTable& part_of(uint64_t hash) {
    return parts_[((hash >> 32) * parts_.size()) >> 32];
  }

  Splitter splitter_;
  std::vector<PieceTable> parts_;
};

}  // namespace nanochat::bpe
