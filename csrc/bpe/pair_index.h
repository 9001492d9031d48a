// The live pairs of the merge loop: key -> count and positions, found by open addressing.
#pragma once

#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

namespace nanochat::bpe {

struct Pair {
  uint32_t left, right;
  int64_t count = 0;                // weighted, exact
  std::vector<uint32_t> positions;  // ascending starts of `left`; may hold places merged since
};

class PairIndex {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFF;

  [[nodiscard]] uint32_t find(uint32_t left, uint32_t right) const {
    const uint64_t key = key_of(left, right);
    const size_t mask = slots_.size() - 1;
    for (size_t i = home(key);; i = (i + 1) & mask) {
      if (slots_[i].pair == kNone || slots_[i].key == key) return slots_[i].pair;
    }
  }

  // The pair must not be in the index.
  uint32_t insert(Pair pair) {
    if ((pairs_.size() + 1) * 2 > slots_.size()) grow();
    const auto number = static_cast<uint32_t>(pairs_.size());
    place({key_of(pair.left, pair.right), number});
    pairs_.push_back(std::move(pair));
    return number;
  }

  [[nodiscard]] Pair& operator[](uint32_t number) { return pairs_[number]; }
  [[nodiscard]] const std::vector<Pair>& pairs() const { return pairs_; }

 private:
  struct Slot {
    uint64_t key = 0;
    uint32_t pair = kNone;
  };

  static uint64_t key_of(uint32_t left, uint32_t right) {
    return static_cast<uint64_t>(left) << 32 | right;
  }
  // Fibonacci hashing: the product's top bits depend on all bits of the key.
  [[nodiscard]] size_t home(uint64_t key) const {
    return ((key ^ key >> 29) * 0x9E3779B97F4A7C15) >> shift_;
  }
  void place(Slot slot) {
    const size_t mask = slots_.size() - 1;
    size_t i = home(slot.key);
    while (slots_[i].pair != kNone) i = (i + 1) & mask;
    slots_[i] = slot;
  }
  void grow() {
    const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(slots_.size() * 2));
    --shift_;
    for (const Slot& slot : old) {
      if (slot.pair != kNone) place(slot);
    }
  }

  static constexpr int kInitialBits = 12;
  int shift_ = 64 - kInitialBits;
  std::vector<Slot> slots_ = std::vector<Slot>(size_t{1} << kInitialBits);
  std::vector<Pair> pairs_;
};

}  // namespace nanochat::bpe
