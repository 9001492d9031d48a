// csrc/muon/half.cuh in plain C++.
#pragma once

#include <bit>
#include <cstdint>

namespace nanochat::muon {

inline uint32_t pack_fp16(float low, float high) {
  const auto bits = [](float x) {
    return uint32_t{std::bit_cast<uint16_t>(static_cast<_Float16>(x))};
  };
  return bits(low) | bits(high) << 16;
}

inline float from_fp16(uint16_t x) {
  return static_cast<float>(std::bit_cast<_Float16>(x));
}

}  // namespace nanochat::muon
