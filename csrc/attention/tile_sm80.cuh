// Tiles in shared memory and the two products of attention on them, one warp at a time.
//
//   scores    c (rows, n) += a (rows, D) b (n, D)^T     a, b shared tiles, or a in registers
//   weighted  c (rows, D) += p (rows, n) b (n, D)       p scores of the warp, b a shared tile
//
// In both b is read as it lies, by ldmatrix in the first and by ldmatrix.trans in the second, and
// the sums of the first have the lanes of the second's first operand: scores never leave registers.
#pragma once

#include "attention/mask.h"
#include "attention/tiles.h"
#include "common/cuda/mma.cuh"
#include "common/cuda/reduce.cuh"

namespace nanochat::attention {

// (B, T, H, D) on the device.
template <typename T>
struct Heads {
  T* data;
  int64_t batch, token, head;  // strides

  __device__ __forceinline__ T* at(int b, int h) const { return data + b * batch + h * head; }
};

__device__ __forceinline__ int warp_index() {
  return static_cast<int>(threadIdx.x) / cuda::kWarp;
}
__device__ __forceinline__ int lane_index() {
  return static_cast<int>(threadIdx.x) % cuda::kWarp;
}

// What a warp sums: kRowTiles times 16 rows, kColumns columns. Lane 4 g + t has of each 16 x 8
//   (g, 2t)  (g, 2t + 1)  (g + 8, 2t)  (g + 8, 2t + 1)
template <int kRowTiles, int kColumns>
struct Sums {
  static constexpr int kColumnTiles = kColumns / kMmaColumns;
  float at[kRowTiles][kColumnTiles][4] = {};
};

// One number for each row of a lane: row 16 m + g + 8 half at [m][half].
template <int kRowTiles>
using RowValues = float[kRowTiles][2];

// Calls f(m, half) for the rows of a lane.
template <int kRowTiles, typename F>
__device__ __forceinline__ void for_each_row(const F& f) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    f(m, 0);
    f(m, 1);
  }
}

// Calls f(sum) for the sums of row [m][half].
template <int kRowTiles, int kColumns, typename F>
__device__ __forceinline__ void for_row(Sums<kRowTiles, kColumns>& s, int m, int half, const F& f) {
#pragma unroll
  for (int n = 0; n < kColumns / kMmaColumns; ++n) {
    f(s.at[m][n][2 * half]);
    f(s.at[m][n][2 * half + 1]);
  }
}

// The first operand of a product over D, in registers.
template <int kRowTiles, int kHeadDim>
struct Fragments {
  uint32_t at[kHeadDim / kMmaDepth][kRowTiles][4];
};

// kRows rows of kHeadDim elements.
template <int kRows, int kHeadDim>
class SharedTile {
 public:
  static constexpr int kBytes = kRows * kHeadDim * 2;

  __device__ __forceinline__ explicit SharedTile(char* data)
      : data_(reinterpret_cast<BFloat16*>(data)) {}

  // Starts copies of rows first .. first + kRows - 1 of `rows`; zeros from row T on.
  template <int kThreads>
  __device__ __forceinline__ void start_copy(const BFloat16* rows, int64_t stride, int first,
                                             int T) const {
    static_assert(kThreads % kChunks == 0 && kRows % (kThreads / kChunks) == 0);
    constexpr int kStep = kThreads / kChunks;  // rows that all threads copy at once
    const int thread = cuda::opaque(static_cast<int>(threadIdx.x));
    const int row = thread / kChunks, chunk = thread % kChunks;
    const BFloat16* from = rows + (first + row) * stride + chunk * kChunk;
#pragma unroll
    for (int i = 0; i < kRows; i += kStep) {
      cuda::cp_async_16(at(row + i, chunk), from, first + row + i < T);
      from += kStep * stride;
    }
  }

  // First operand: rows row .. row + 15, channels 16 k .. 16 k + 15.
  __device__ __forceinline__ void load_rows(uint32_t (&a)[4], int row, int k, int lane) const {
    cuda::ldmatrix_x4(a, at(row + lane % 16, 2 * k + lane / 16));
  }

  // Second operand of `scores`: rows row .. row + 15 are columns of the product, as two mma have
  // them: words 0, 1 and 2, 3.
  __device__ __forceinline__ void load_columns(uint32_t (&b)[4], int row, int k, int lane) const {
    cuda::ldmatrix_x4(b, at(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
  }

  // Second operand of `weighted`: rows row .. row + 15 are its depth, channels 16 n .. 16 n + 15
  // the columns of two mma.
  __device__ __forceinline__ void load_depth(uint32_t (&b)[4], int row, int n, int lane) const {
    cuda::ldmatrix_x4_trans(b, at(row + lane % 16, 2 * n + lane / 16));
  }

  // A warp's sums, rounded, to rows first + row .. of `to` that are below T, by way of the tile's
  // rows row .., which nobody else may use.
  template <int kRowTiles>
  __device__ __forceinline__ void store(const Sums<kRowTiles, kHeadDim>& sums, int row,
                                        BFloat16* to, int64_t stride, int first, int T) const {
    const int lane = lane_index(), g = lane / 4, t = lane % 4;
    __syncwarp();  // lanes may still read what they overwrite
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kHeadDim / kMmaColumns; ++n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          auto* pair = reinterpret_cast<uint32_t*>(at(row + m * kMmaRows + g + half * 8, n)) + t;
          *pair = cuda::pack_bf16(sums.at[m][n][2 * half], sums.at[m][n][2 * half + 1]);
        }
      }
    }
    __syncwarp();
    constexpr int kRowsAtOnce = cuda::kWarp / kChunks;
#pragma unroll
    for (int i = 0; i < kRowTiles * kMmaRows; i += kRowsAtOnce) {
      const int r = row + i + lane / kChunks, chunk = lane % kChunks;
      if (first + r < T) {
        *reinterpret_cast<uint4*>(to + (first + r) * stride + chunk * kChunk) =
            *reinterpret_cast<const uint4*>(at(r, chunk));
      }
    }
  }

 private:
  static constexpr int kChunks = kHeadDim / kChunk;

  __device__ __forceinline__ BFloat16* at(int row, int chunk) const {
    return data_ + row * kHeadDim + swizzled(row, chunk) * kChunk;
  }

  BFloat16* data_;
};

template <int kRowTiles, int kRows, int kHeadDim>
__device__ __forceinline__ Fragments<kRowTiles, kHeadDim> load_fragments(
    const SharedTile<kRows, kHeadDim>& tile, int row) {
  Fragments<kRowTiles, kHeadDim> a;
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int k = 0; k < kHeadDim / kMmaDepth; ++k) {
      tile.load_rows(a.at[k][m], row + m * kMmaRows, k, lane_index());
    }
  }
  return a;
}

// c += a b^T for step k of the channels.
template <int kRowTiles, int kColumns, int kHeadDim>
__device__ __forceinline__ void multiply_step(Sums<kRowTiles, kColumns>& c,
                                              const uint32_t (&a)[kRowTiles][4],
                                              const SharedTile<kColumns, kHeadDim>& b, int k,
                                              int lane) {
#pragma unroll
  for (int n = 0; n < kColumns / kMmaRows; ++n) {
    uint32_t words[4];
    b.load_columns(words, n * kMmaRows, k, lane);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      cuda::mma_bf16(c.at[m][2 * n], a[m], {words[0], words[1]});
      cuda::mma_bf16(c.at[m][2 * n + 1], a[m], {words[2], words[3]});
    }
  }
}

template <int kRowTiles, int kColumns, int kRows, int kHeadDim>
__device__ __forceinline__ void scores(Sums<kRowTiles, kColumns>& c,
                                       const SharedTile<kRows, kHeadDim>& a, int row,
                                       const SharedTile<kColumns, kHeadDim>& b) {
  const int lane = cuda::opaque(lane_index());
// Unrolled further, the loads of all steps would start at once and wait in registers.
#pragma unroll 2
  for (int k = 0; k < kHeadDim / kMmaDepth; ++k) {
    uint32_t rows[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) a.load_rows(rows[m], row + m * kMmaRows, k, lane);
    multiply_step(c, rows, b, k, lane);
  }
}

template <int kRowTiles, int kColumns, int kHeadDim>
__device__ __forceinline__ void scores(Sums<kRowTiles, kColumns>& c,
                                       const Fragments<kRowTiles, kHeadDim>& a,
                                       const SharedTile<kColumns, kHeadDim>& b) {
  const int lane = cuda::opaque(lane_index());
#pragma unroll
  for (int k = 0; k < kHeadDim / kMmaDepth; ++k) multiply_step(c, a.at[k], b, k, lane);
}

template <int kRowTiles, int kColumns, int kHeadDim>
__device__ __forceinline__ void weighted(Sums<kRowTiles, kHeadDim>& c,
                                         const Sums<kRowTiles, kColumns>& p,
                                         const SharedTile<kColumns, kHeadDim>& b) {
  const int lane = cuda::opaque(lane_index());
#pragma unroll
  for (int k = 0; k < kColumns / kMmaDepth; ++k) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      const float (&left)[4] = p.at[m][2 * k], (&right)[4] = p.at[m][2 * k + 1];
      a[m][0] = cuda::pack_bf16(left[0], left[1]);
      a[m][1] = cuda::pack_bf16(left[2], left[3]);
      a[m][2] = cuda::pack_bf16(right[0], right[1]);
      a[m][3] = cuda::pack_bf16(right[2], right[3]);
    }
#pragma unroll
    for (int n = 0; n < kHeadDim / kMmaRows; ++n) {
      uint32_t words[4];
      b.load_depth(words, k * kMmaDepth, n, lane);
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        cuda::mma_bf16(c.at[m][2 * n], a[m], {words[0], words[1]});
        cuda::mma_bf16(c.at[m][2 * n + 1], a[m], {words[2], words[3]});
      }
    }
  }
}

// One of the sums of a lane: i of mma (m, n).
struct Place {
  int m, n, i, lane;

  // Counted from 0 in the warp's.
  __device__ __forceinline__ int row() const { return m * kMmaRows + lane / 4 + half() * 8; }
  __device__ __forceinline__ int column() const { return n * kMmaColumns + lane % 4 * 2 + i % 2; }
  // Rows of a lane are [m][half].
  __device__ __forceinline__ int half() const { return i / 2; }
};

// Calls f(sum, place) for all sums of a lane. The lane is opaque, lest the place of each sum be
// kept from one tile to the next.
template <int kRowTiles, int kColumns, typename F>
__device__ __forceinline__ void for_each(Sums<kRowTiles, kColumns>& s, const F& f) {
  const int lane = cuda::opaque(lane_index());
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kColumns / kMmaColumns; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) f(s.at[m][n][i], Place{m, n, i, lane});
    }
  }
}

}  // namespace nanochat::attention
