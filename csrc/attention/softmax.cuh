// The softmax of scores that come tile by tile, in base 2. Two kinds with one face:
//
//   RunningSoftmax   subtracts the largest score so far; what was summed before is scaled down
//   BoundedSoftmax   subtracts a bound that the caller knows: no maximum, no rescaling, and tiles
//                    wait for nothing. exp2(score - bound) of bound at most kMaxScoreBound is a
//                    normal number of bf16, whose exponent is that of fp32.
#pragma once

#include <limits>
#include <numbers>

#include "attention/attention.h"
#include "attention/tile_sm80.cuh"
#include "common/cuda/approx.cuh"

namespace nanochat::attention {

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
inline constexpr double kLog2E = std::numbers::log2e;
inline constexpr float kLn2 = std::numbers::ln2_v<float>;
static_assert(2 * kMaxScoreBound * kLog2E < -std::numeric_limits<float>::min_exponent);

// Lanes of a row: the four that share g.
inline constexpr int kRowLanes = 4;

template <int kRowTiles>
class BoundedSoftmax {
 public:
  __device__ __forceinline__ BoundedSoftmax(float scale_log2, float bound_log2)
      : scale_(scale_log2), bound_(bound_log2) {}

  // Scores become weights.
  template <int kColumns, int kHeadDim>
  __device__ __forceinline__ void add(Sums<kRowTiles, kColumns>& s,
                                      Sums<kRowTiles, kHeadDim>& /*out*/) {
    for_each(s, [&](float& score, const Place& at) {
      score = cuda::exp2_approx(fmaf(score, scale_, -bound_));
      sum_[at.m][at.half()] += score;
    });
  }

  // After the last tile: the logarithm of the sum, and what the output is to be scaled by.
  __device__ __forceinline__ void finish(float (&lse)[kRowTiles][2],
                                         float (&scale)[kRowTiles][2]) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float sum = cuda::reduce_lanes<kRowLanes>(sum_[m][half], cuda::Sum{});
        lse[m][half] = logf(sum) + bound_ * kLn2;
        scale[m][half] = 1.0f / sum;
      }
    }
  }

 private:
  const float scale_, bound_;
  float sum_[kRowTiles][2] = {};
};

template <int kRowTiles>
class RunningSoftmax {
 public:
  __device__ __forceinline__ RunningSoftmax(float scale_log2, float /*bound_log2*/)
      : scale_(scale_log2) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) max_[m][0] = max_[m][1] = kMinusInfinity;
  }

  template <int kColumns, int kHeadDim>
  __device__ __forceinline__ void add(Sums<kRowTiles, kColumns>& s,
                                      Sums<kRowTiles, kHeadDim>& out) {
    float before[kRowTiles][2];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      before[m][0] = max_[m][0];
      before[m][1] = max_[m][1];
    }
    for_each(s, [&](float score, const Place& at) {
      float& max = max_[at.m][at.half()];
      max = fmaxf(max, score);
    });
    float factor[kRowTiles][2];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        max_[m][half] = cuda::reduce_lanes<kRowLanes>(max_[m][half], cuda::Max{});
        factor[m][half] = cuda::exp2_approx(fmaf(before[m][half], scale_, -shift(m, half)));
        sum_[m][half] *= factor[m][half];
      }
    }
    for_each(out, [&](float& x, const Place& at) { x *= factor[at.m][at.half()]; });
    for_each(s, [&](float& score, const Place& at) {
      score = cuda::exp2_approx(fmaf(score, scale_, -shift(at.m, at.half())));
      sum_[at.m][at.half()] += score;
    });
  }

  __device__ __forceinline__ void finish(float (&lse)[kRowTiles][2],
                                         float (&scale)[kRowTiles][2]) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float sum = cuda::reduce_lanes<kRowLanes>(sum_[m][half], cuda::Sum{});
        lse[m][half] = logf(sum) + shift(m, half) * kLn2;
        scale[m][half] = 1.0f / sum;
      }
    }
  }

 private:
  // A row that has seen no key yet has nothing to subtract: infinities would make NaN.
  __device__ __forceinline__ float shift(int m, int half) const {
    return max_[m][half] == kMinusInfinity ? 0.0f : max_[m][half] * scale_;
  }

  const float scale_;
  float max_[kRowTiles][2], sum_[kRowTiles][2] = {};
};

}  // namespace nanochat::attention
