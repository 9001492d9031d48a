// Streams packed weights past activations: the inner loop of all matrices.
//
// A stage is one block of 32 channels: 1 KB of weights for each 16 rows, straight from memory to
// the registers of a warp, and 512 bytes of activations for each 8 tokens. kStages of them are
// under way. Weights of the first ones are asked for before the kernel waits for its predecessor,
// so that memory is never idle between two kernels.
//
// Sameness: a token is a column, and columns do not meet. Which channels add up in which order is
// settled by the matrix alone, never by the number of columns. Outside of the mma no product meets
// a sum but in fmaf, so that no copy of the code can round differently from another.
#pragma once

#include "attention/prepass_row.h"
#include "common/cuda/reduce.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/ptx.cuh"

namespace nanochat::engine::cuda {

using nanochat::cuda::kWarp;
using nanochat::cuda::reduce_lanes;

// kRowTiles tiles of 16 rows times kColumns columns of 8 tokens, in one warp: every step-th block
// from `first` on.
template <int kRowTiles, int kColumns>
class WeightStream {
 public:
  // Registers of a stage: 8 a row tile, 4 a column. About 96 of them, beside 4 sums for each pair.
  static constexpr int kStages = kRowTiles * kColumns >= 8 ? 2 : kColumns >= 4 ? 3 : 6;

  __device__ __forceinline__ WeightStream(const uint4* weights, int row_tile, int num_blocks,
                                          int first, int step)
      : weights_(weights + (int64_t{row_tile} * num_blocks + first) * kBlockVectors +
                 threadIdx.x % kWarp),
        row_stride_(int64_t{num_blocks} * kBlockVectors),
        first_(first),
        step_(step),
        count_((num_blocks - first + step - 1) / step) {}

  __device__ __forceinline__ void start_weights() {
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      if (s < count_) load_rows(stages_[s], s);
    }
  }

  // `activations` of the token tile. After wait_for_previous.
  __device__ __forceinline__ void start_activations(const BFloat16* activations) {
    activations_ = reinterpret_cast<const uint4*>(activations) +
                   first_ * (kTokenTile * kBlockChannels / 8) + threadIdx.x % kWarp;
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      if (s < count_) load_columns(stages_[s], s);
    }
  }

  __device__ __forceinline__ void multiply(float (&sums)[kRowTiles][kColumns][4]) {
    for (int base = 0; base < count_; base += kStages) {
#pragma unroll
      for (int s = 0; s < kStages; ++s) {
        const int i = base + s;
        if (i < count_) {
          multiply_stage(stages_[s], sums);
          if (i + kStages < count_) {
            load_rows(stages_[s], i + kStages);
            load_columns(stages_[s], i + kStages);
          }
        }
      }
    }
  }

 private:
  struct Stage {
    uint4 a[kRowTiles][2];  // two mma steps
    uint4 b[kColumns];      // both steps of a column
  };

  __device__ __forceinline__ void load_rows(Stage& stage, int i) const {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const uint4* block = weights_ + m * row_stride_ + int64_t{i} * step_ * kBlockVectors;
      stage.a[m][0] = load_weights(block);
      stage.a[m][1] = load_weights(block + kWarp);
    }
  }

  __device__ __forceinline__ void load_columns(Stage& stage, int i) const {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      stage.b[n] =
          load_written(activations_ + i * step_ * (kTokenTile * kBlockChannels / 8) + n * kWarp);
    }
  }

  __device__ __forceinline__ static void multiply_stage(const Stage& stage,
                                                        float (&sums)[kRowTiles][kColumns][4]) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        mma_16x8x16(sums[m][n], stage.a[m][0], stage.b[n].x, stage.b[n].y);
        mma_16x8x16(sums[m][n], stage.a[m][1], stage.b[n].z, stage.b[n].w);
      }
    }
  }

  const uint4* weights_;
  int64_t row_stride_;
  int first_, step_, count_;
  const uint4* activations_ = nullptr;
  Stage stages_[kStages];
};

// Sums of a warp's 16 x 8 kColumns to shared memory as (token, row) with `stride` floats a token.
template <int kColumns>
__device__ __forceinline__ void store_sums(const float (&sums)[kColumns][4], float* shared,
                                           int stride) {
  const int lane = threadIdx.x % kWarp, row = lane / 4, token = lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < kColumns; ++n) {
    float* first = shared + (n * kMmaTokens + token) * stride + row;
    first[0] = sums[n][0];
    first[stride] = sums[n][1];
    first[8] = sums[n][2];
    first[stride + 8] = sums[n][3];
  }
}

// 1 / rms of tokens 0 to 8 kColumns - 1 of a tile, to shared memory: eight lanes a token add every
// eighth slot, then each other.
template <int kColumns, int kThreads>
__device__ __forceinline__ void inverse_norms(const Residual& in, int tile, float* norms) {
  constexpr int kLanes = 8;
  const int num_slots = in.channels / kMmaRows;
  for (int token = threadIdx.x / kLanes; token < kColumns * kMmaTokens;
       token += kThreads / kLanes) {
    float sum = 0.0f;
    for (int slot = threadIdx.x % kLanes; slot < num_slots; slot += kLanes) {
      sum += in.squares[squares_index(int64_t{tile} * kTokenTile + token, slot, in.channels)];
    }
    sum = reduce_lanes<kLanes>(sum, nanochat::cuda::Sum{});
    if (threadIdx.x % kLanes == 0) norms[token] = attention::inv_rms(sum, in.channels, in.eps);
  }
}

}  // namespace nanochat::engine::cuda
