// Rows of the pre-pass in registers. A row (one head of one token) belongs to a group of lanes,
// each with 16 bytes of either half of the row, so that the rotation stays inside of a thread and
// the norm is a few shuffles:
//
//            first half          second half            D = 128, bf16: 8 lanes a row, 4 rows a warp
//   row    | 0 | 1 | .. | 7 |  | 0 | 1 | .. | 7 |       D = 128, fp32: 16 lanes, 2 rows
//            16 B each           16 B each              D =  64: half as many lanes, twice the rows
#pragma once

#include "attention/prepass_row.h"
#include "attention/rows.cuh"
#include "common/cuda/reduce.cuh"

namespace nanochat::attention {

template <typename T, int kHeadDim_>
struct RowGroup {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kHalf = kHeadDim / 2;
  static constexpr int kElements = cuda::kVectorSize<T>;  // of either half, per lane
  static constexpr int kLanes = kHalf / kElements;        // per row
  static_assert(kHalf % kElements == 0 && cuda::kWarp % kLanes == 0);
};

// What a lane holds of a row: elements d .. d + kElements and their partners half a row on.
template <typename Group>
struct Slice {
  Pair<float> pairs[Group::kElements] = {};

  template <typename T>
  __device__ __forceinline__ void read(const T* row, int d) {
    float first[Group::kElements], second[Group::kElements];
    cuda::load_vector(row + d, first);
    cuda::load_vector(row + Group::kHalf + d, second);
#pragma unroll
    for (int i = 0; i < Group::kElements; ++i) pairs[i] = {first[i], second[i]};
  }

  template <typename T>
  __device__ __forceinline__ void write(T* row, int d) const {
    float first[Group::kElements], second[Group::kElements];
#pragma unroll
    for (int i = 0; i < Group::kElements; ++i) {
      first[i] = pairs[i].first;
      second[i] = pairs[i].second;
    }
    cuda::store_vector(row + d, first);
    cuda::store_vector(row + Group::kHalf + d, second);
  }
};

// cos and sin of a lane's pairs: fp32, so one or two vectors of either table.
template <typename Group>
struct Angles {
  float cos[Group::kElements], sin[Group::kElements];

  __device__ __forceinline__ Angles(const float* cos_row, const float* sin_row, int d) {
    constexpr int kStep = cuda::kVectorSize<float>;
#pragma unroll
    for (int i = 0; i < Group::kElements; i += kStep) {
      cuda::load_vector(cos_row + d + i, reinterpret_cast<float (&)[kStep]>(cos[i]));
      cuda::load_vector(sin_row + d + i, reinterpret_cast<float (&)[kStep]>(sin[i]));
    }
  }
};

// Of a whole row, to every lane of its group; all lanes of the warp must call.
template <typename Group>
__device__ __forceinline__ float dot(const Slice<Group>& x, const Slice<Group>& y) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < Group::kElements; ++i) sum += dot(x.pairs[i], y.pairs[i]);
  return cuda::reduce_lanes<Group::kLanes>(sum, cuda::Sum{});
}

// The gradient of a normed row y becomes that of the raw row.
template <typename Group>
__device__ __forceinline__ void rope_norm_backward(Slice<Group>& dy, const Slice<Group>& y,
                                                   const Angles<Group>& angles, float projection,
                                                   float scale) {
#pragma unroll
  for (int i = 0; i < Group::kElements; ++i) {
    dy.pairs[i] = rope_norm_backward(dy.pairs[i], y.pairs[i], angles.cos[i], angles.sin[i],
                                     projection, scale);
  }
}

}  // namespace nanochat::attention
