// A map from pairs of token ids to values, by open addressing; pairs of bytes have a table of their
// own. Values keep the number they were inserted under.
#pragma once

#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

namespace nanochat::bpe {

template <typename Value>
class PairMap {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFF;

  // The number of the pair's value, or kNone.
  [[nodiscard]] uint32_t find(uint32_t left, uint32_t right) const {
    if ((left | right) < kNumBytes) return of_bytes_[left * kNumBytes + right];
    const uint64_t key = key_of(left, right);
    const size_t mask = slots_.size() - 1;
    for (size_t i = home(key);; i = (i + 1) & mask) {
      if (slots_[i].number == kNone || slots_[i].key == key) return slots_[i].number;
    }
  }

  // Says that find() will be asked for the pair soon.
  void prefetch(uint32_t left, uint32_t right) const {
    __builtin_prefetch(&slots_[home(key_of(left, right))]);
  }

  // The pair must not be in the map.
  uint32_t insert(uint32_t left, uint32_t right, Value value) {
    const auto number = static_cast<uint32_t>(values_.size());
    if ((left | right) < kNumBytes) {
      of_bytes_[left * kNumBytes + right] = number;
    } else {
      if (++num_slots_used_ * 2 > slots_.size()) grow();
      place({key_of(left, right), number});
    }
    values_.push_back(std::move(value));
    return number;
  }

  [[nodiscard]] Value& operator[](uint32_t number) { return values_[number]; }
  [[nodiscard]] size_t size() const { return values_.size(); }

 private:
  static constexpr uint32_t kNumBytes = 256;
  static constexpr int kInitialBits = 12;

  struct Slot {
    uint64_t key = 0;
    uint32_t number = kNone;
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
    while (slots_[i].number != kNone) i = (i + 1) & mask;
    slots_[i] = slot;
  }
  void grow() {
    const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(slots_.size() * 2));
    --shift_;
    for (const Slot& slot : old) {
      if (slot.number != kNone) place(slot);
    }
  }

  std::vector<uint32_t> of_bytes_ = std::vector<uint32_t>(kNumBytes * kNumBytes, kNone);
  int shift_ = 64 - kInitialBits;
  size_t num_slots_used_ = 0;
  std::vector<Slot> slots_ = std::vector<Slot>(size_t{1} << kInitialBits);
  std::vector<Value> values_;
};

}  // namespace nanochat::bpe
