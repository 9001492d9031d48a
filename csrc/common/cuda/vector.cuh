// 16-byte accesses: the widest a thread makes, 8 bf16 or 4 fp32.
#pragma once

#include "common/dtype.h"

namespace nanochat::cuda {

inline constexpr int kVectorBytes = 16;

template <typename T>
inline constexpr int kVectorSize = kVectorBytes / static_cast<int>(sizeof(T));

// Reads kVectorSize<T> elements from an address that is a multiple of 16.
template <typename T>
__device__ __forceinline__ void load_vector(const T* p, float (&x)[kVectorSize<T>]) {
  union {
    uint4 raw;
    T elements[kVectorSize<T>];
  } vector;
  vector.raw = *reinterpret_cast<const uint4*>(p);
#pragma unroll
  for (int i = 0; i < kVectorSize<T>; ++i) x[i] = load(vector.elements[i]);
}

template <typename T>
__device__ __forceinline__ void store_vector(T* p, const float (&x)[kVectorSize<T>]) {
  union {
    uint4 raw;
    T elements[kVectorSize<T>];
  } vector;
#pragma unroll
  for (int i = 0; i < kVectorSize<T>; ++i) store(vector.elements[i], x[i]);
  *reinterpret_cast<uint4*>(p) = vector.raw;
}

}  // namespace nanochat::cuda
