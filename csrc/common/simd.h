// Vectors of 16 fp32 lanes in the compiler's own vector extension (GCC, Clang): one register with
// AVX-512, two with AVX2, four with SSE2 or NEON, chosen where the code is inlined (cpu_level.h).
// Sixteen lanes on every level means one order of summation on every level.
#pragma once

#include <cstring>

#include "common/dtype.h"

namespace nanochat::simd {

inline constexpr int kLanes = 16;

using F32 = float __attribute__((vector_size(64)));
using U32 = uint32_t __attribute__((vector_size(64)));
using U16 = uint16_t __attribute__((vector_size(32)));

NANOCHAT_HD F32 splat(float x) {
  return F32{} + x;
}

NANOCHAT_HD F32 load(const float* p) {
  F32 x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

NANOCHAT_HD F32 load(const BFloat16* p) {
  U16 half;
  std::memcpy(&half, p, sizeof(half));
  return std::bit_cast<F32>(__builtin_convertvector(half, U32) << 16);
}

NANOCHAT_HD void store(float* p, F32 x) {
  std::memcpy(p, &x, sizeof(x));
}

// The same rounding as to_bfloat16.
NANOCHAT_HD void store(BFloat16* p, F32 x) {
  const U32 bits = std::bit_cast<U32>(x);
  const U32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U32 quiet = (bits >> 16) | 0x40u;
  const U16 half = __builtin_convertvector(x == x ? rounded : quiet, U16);
  std::memcpy(p, &half, sizeof(half));
}

// Pairwise, in a fixed order.
NANOCHAT_HD float sum(F32 x) {
  float lanes[kLanes];
  store(lanes, x);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// One vector or one element, whichever F is, so that a loop and its remainder share their body.
template <typename F, typename T>
NANOCHAT_HD F read(const T* p) {
  if constexpr (std::is_same_v<F, F32>) {
    return load(p);
  } else {
    return nanochat::load(*p);
  }
}

template <typename F, typename T>
NANOCHAT_HD void write(T* p, F x) {
  if constexpr (std::is_same_v<F, F32>) {
    store(p, x);
  } else {
    nanochat::store(*p, x);
  }
}

// A sum over a row in kLanes lanes and a remainder.
template <typename A>
struct RowSum {
  F32 lanes{};
  A rest{};

  NANOCHAT_HD void add(F32 x) { lanes += x; }
  NANOCHAT_HD void add(A x) { rest += x; }
  NANOCHAT_HD A total() const { return static_cast<A>(sum(lanes)) + rest; }
};

// Calls body(TypeTag<F>{}, i) for i in [0, n): F a vector while kLanes are left, else one element.
// Rows of fp64 exist for gradient checks and go element by element.
template <typename T, typename Body>
NANOCHAT_HD void for_each_step(int64_t n, const Body& body) {
  int64_t i = 0;
  if constexpr (!std::is_same_v<T, double>) {
    for (; i + kLanes <= n; i += kLanes) body(TypeTag<F32>{}, i);
  }
  for (; i < n; ++i) body(TypeTag<Acc<T>>{}, i);
}

NANOCHAT_HD F32 max(F32 x, F32 y) {
  return x > y ? x : y;
}
NANOCHAT_HD F32 min(F32 x, F32 y) {
  return x < y ? x : y;
}

}  // namespace nanochat::simd
