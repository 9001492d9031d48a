// csrc/common/cuda/mma.cuh in plain C++, for cuda_runtime.h beside it: the same lanes hold the same
// elements. A copy that is under way is NaN in its place until the wait, so that reading too early
// and overwriting too early both show.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "common/dtype.h"

namespace nanochat::cuda {

inline int lane_on_host() {
  return static_cast<int>(threadIdx.x) % cuda_on_host::kWarp;
}

// The sum over k in rising order. to_number makes a float of 16 bits.
template <typename ToNumber>
void mma_on_host(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                 const ToNumber& to_number) {
  float mine[12];
  for (int i = 0; i < 12; ++i) {
    const uint32_t word = i < 8 ? a[i / 2] : b[i / 2 - 4];
    mine[i] = to_number(static_cast<uint16_t>(word >> i % 2 * 16));
  }
  const auto slots = cuda_on_host::Block::current().exchange(mine, sizeof mine);
  const auto element = [&](int lane, int i) {
    float x;
    std::memcpy(&x, slots[lane] + i * sizeof x, sizeof x);
    return x;
  };
  const int lane = lane_on_host();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      c[i] += element(row % 8 * 4 + k % 8 / 2, (row / 8 + k / 8 * 2) * 2 + k % 2) *
              element(column * 4 + k % 8 / 2, (4 + k / 8) * 2 + k % 2);
    }
  }
}

inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_on_host(c, a, b, [](uint16_t bits) { return to_float(BFloat16{bits}); });
}

inline void mma_fp16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_on_host(c, a, b,
              [](uint16_t bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); });
}

inline uint32_t pack_bf16(float low, float high) {
  return to_bfloat16(low).bits | static_cast<uint32_t>(to_bfloat16(high).bits) << 16;
}

inline void require_aligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) cuda_on_host::fail("a row that is not aligned");
}

// Rows are read before the lanes meet, so no lane can overwrite what another still wants.
template <typename Index>
void ldmatrix_on_host(uint32_t (&r)[4], const void* shared, const Index& index) {
  require_aligned(shared);
  const auto slots = cuda_on_host::Block::current().exchange(shared, 16);
  for (int m = 0; m < 4; ++m) {
    r[m] = 0;
    for (int half = 0; half < 2; ++half) {
      const auto [row, column] = index(half);
      uint16_t x;
      std::memcpy(&x, slots[8 * m + row] + column * sizeof x, sizeof x);
      r[m] |= static_cast<uint32_t>(x) << half * 16;
    }
  }
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared) {
  const int g = lane_on_host() / 4, t = lane_on_host() % 4;
  ldmatrix_on_host(r, shared, [&](int half) { return std::pair{g, 2 * t + half}; });
}

inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared) {
  const int g = lane_on_host() / 4, t = lane_on_host() % 4;
  ldmatrix_on_host(r, shared, [&](int half) { return std::pair{2 * t + half, g}; });
}

// The copies of one thread of one block.
struct CopiesOnHost {
  struct Copy {
    void* shared;
    const void* global;  // null: zeros
    int group;
  };
  int64_t block = -1;
  int num_groups = 0;
  std::vector<Copy> under_way{};

  static CopiesOnHost& of_this_thread() {
    static std::vector<CopiesOnHost> all(cuda_on_host::kMaxThreads);
    CopiesOnHost& mine = all[threadIdx.x];
    const int64_t block = cuda_on_host::Block::current().serial();
    if (mine.block != block) mine = {.block = block};
    return mine;
  }
};

inline void cp_async_16(void* shared, const void* global, bool valid) {
  require_aligned(shared);
  if (valid) require_aligned(global);
  CopiesOnHost& copies = CopiesOnHost::of_this_thread();
  copies.under_way.push_back({shared, valid ? global : nullptr, copies.num_groups});
  std::memset(shared, 0xff, 16);
}

inline void cp_async_commit() {
  ++CopiesOnHost::of_this_thread().num_groups;
}

template <int kPending>
void cp_async_wait() {
  CopiesOnHost& copies = CopiesOnHost::of_this_thread();
  std::erase_if(copies.under_way, [&](const CopiesOnHost::Copy& copy) {
    if (copy.group >= copies.num_groups - kPending) return false;
    if (copy.global == nullptr) {
      std::memset(copy.shared, 0, 16);
    } else {
      std::memcpy(copy.shared, copy.global, 16);
    }
    return true;
  });
}

inline int opaque(int x) {
  return x;
}

inline char* dynamic_shared() {
  return cuda_on_host::Block::current().dynamic_shared();
}

}  // namespace nanochat::cuda
