// Philox4x64-10: random words by number, in any order. The same words as NumPy's
// Philox(key=[key0, key1], counter=[0, c1, 0, 0]).random_raw, which counts up before its first
// block: word i is part i % 4 of the block at counter (1 + i / 4, c1, 0, 0).
//
// Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
#pragma once

#include <array>
#include <cstdint>

namespace nanochat::engine {

class PhiloxStream {
 public:
  using Block = std::array<uint64_t, 4>;

  constexpr PhiloxStream(uint64_t key0, uint64_t key1, uint64_t counter1)
      : key0_(key0), key1_(key1), counter1_(counter1) {}

  // Words 4 * index to 4 * index + 3.
  [[nodiscard]] constexpr Block block(uint64_t index) const {
    constexpr uint64_t kMultiplier0 = 0xd2e7470ee14c6c93, kMultiplier1 = 0xca5a826395121157;
    constexpr uint64_t kWeyl0 = 0x9e3779b97f4a7c15, kWeyl1 = 0xbb67ae8584caa73b;
    uint64_t c0 = index + 1, c1 = counter1_, c2 = 0, c3 = 0, k0 = key0_, k1 = key1_;
    for (int round = 0; round < 10; ++round) {
      const Wide product0 = Wide{kMultiplier0} * c0, product1 = Wide{kMultiplier1} * c2;
      c0 = static_cast<uint64_t>(product1 >> 64) ^ c1 ^ k0;
      c1 = static_cast<uint64_t>(product1);
      c2 = static_cast<uint64_t>(product0 >> 64) ^ c3 ^ k1;
      c3 = static_cast<uint64_t>(product0);
      k0 += kWeyl0;
      k1 += kWeyl1;
    }
    return {c0, c1, c2, c3};
  }

  [[nodiscard]] constexpr uint64_t word(uint64_t index) const {
    return block(index / 4)[index % 4];
  }

 private:
  __extension__ typedef unsigned __int128 Wide;  // nvcc knows no __extension__ using

  uint64_t key0_, key1_, counter1_;
};

}  // namespace nanochat::engine
