// Sums and maxima in a fixed order: the same inputs give the same bits.
#pragma once

namespace nanochat::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

struct Sum {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};

struct Max {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over aligned groups of kWidth lanes, a power of two; every lane of a group gets the result. All
// lanes of the warp must call.
template <int kWidth, typename Op>
__device__ __forceinline__ float reduce_lanes(float x, Op op) {
#pragma unroll
  for (int offset = kWidth / 2; offset > 0; offset /= 2) {
    x = op(x, __shfl_xor_sync(kAllLanes, x, offset, kWarp));
  }
  return x;
}

// Over a block of kThreads; every thread gets the result. `scratch` is kThreads / 32 shared floats,
// free again when the call returns.
template <int kThreads, typename Op>
__device__ __forceinline__ float reduce_block(float x, float* scratch, Op op) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kThreads % kWarp == 0 && kWarps <= kWarp);
  x = reduce_lanes<kWarp>(x, op);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = scratch[0];
  for (int warp = 1; warp < kWarps; ++warp) x = op(x, scratch[warp]);
  __syncthreads();
  return x;
}

}  // namespace nanochat::cuda
