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
    for_each_row<kRowTiles>([&](int m, int half) {
      for_row(s, m, half, [&](float& score) {
        score = cuda::exp2_approx(fmaf(score, scale_, -bound_));
        sum_[m][half] += score;
      });
    });
  }

  // After the last tile: the logarithm of the sum, and what the output is to be scaled by.
  __device__ __forceinline__ void finish(RowValues<kRowTiles>& lse,
                                         RowValues<kRowTiles>& scale) const {
    for_each_row<kRowTiles>([&](int m, int half) {
      const float sum = cuda::reduce_lanes<kRowLanes>(sum_[m][half], cuda::Sum{});
      lse[m][half] = logf(sum) + bound_ * kLn2;
      scale[m][half] = 1.0f / sum;
    });
  }

 private:
  const float scale_, bound_;
  RowValues<kRowTiles> sum_ = {};
};

// A row must see a key in the first tile that is added: of minus infinities it makes NaN.
template <int kRowTiles>
class RunningSoftmax {
 public:
  __device__ __forceinline__ RunningSoftmax(float scale_log2, float /*bound_log2*/)
      : scale_(scale_log2) {
    for_each_row<kRowTiles>([&](int m, int half) { max_[m][half] = kMinusInfinity; });
  }

  template <int kColumns, int kHeadDim>
  __device__ __forceinline__ void add(Sums<kRowTiles, kColumns>& s,
                                      Sums<kRowTiles, kHeadDim>& out) {
    for_each_row<kRowTiles>([&](int m, int half) {
      const float before = max_[m][half];
      float max = before;
      for_row(s, m, half, [&](float score) { max = fmaxf(max, score); });
      max_[m][half] = max = cuda::reduce_lanes<kRowLanes>(max, cuda::Max{});
      const float shift = max * scale_;
      const float factor = cuda::exp2_approx(fmaf(before, scale_, -shift));
      float sum = sum_[m][half] * factor;
      for_row(out, m, half, [&](float& x) { x *= factor; });
      for_row(s, m, half, [&](float& score) {
        score = cuda::exp2_approx(fmaf(score, scale_, -shift));
        sum += score;
      });
      sum_[m][half] = sum;
    });
  }

  __device__ __forceinline__ void finish(RowValues<kRowTiles>& lse,
                                         RowValues<kRowTiles>& scale) const {
    for_each_row<kRowTiles>([&](int m, int half) {
      const float sum = cuda::reduce_lanes<kRowLanes>(sum_[m][half], cuda::Sum{});
      lse[m][half] = logf(sum) + max_[m][half] * scale_ * kLn2;
      scale[m][half] = 1.0f / sum;
    });
  }

 private:
  const float scale_;
  RowValues<kRowTiles> max_, sum_ = {};
};

}  // namespace nanochat::attention
