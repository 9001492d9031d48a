// csrc/engine/cuda/ptx.cuh in plain C++, for cuda_runtime.h beside it.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/dtype.h"

namespace nanochat::engine::cuda {

// The sum over k in rising order; which lane holds what is the instruction's definition.
inline void mma_16x8x16(float (&c)[4], const uint4& a, uint32_t b_low, uint32_t b_high) {
  const uint32_t mine[] = {a.x, a.y, a.z, a.w, b_low, b_high};
  const auto lanes = cuda_on_host::Block::current().exchange(mine, sizeof mine);
  const auto element = [&](int lane, int word, int half) {
    BFloat16 x;
    std::memcpy(&x, lanes[lane] + word * 4 + half * 2, sizeof x);
    return to_float(x);
  };
  const int lane = static_cast<int>(threadIdx.x) % cuda_on_host::kWarp;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      c[i] += element(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2) *
              element(column * 4 + k % 8 / 2, 4 + k / 8, k % 2);
    }
  }
}

inline uint4 load_weights(const uint4* p) {
  return *p;
}
inline uint4 load_written(const void* p) {
  uint4 x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline void let_next_start() {}
inline void wait_for_previous() {}

}  // namespace nanochat::engine::cuda
