// The step outside its products on CUDA, bound by memory. No atomics: sums have a fixed order.
//
// Bytes for an element, fp32 gradients and parameters: begin reads g and momentum, writes momentum
// and X: 14 (the second reading of a row, for its division by the norm, comes from L2); squares
// reads X: 2; end reads X and p, writes p: 10. In PyTorch's eager kernels it is about 90.
//
// begin and end take 32 rows a block. A tall matrix is kept as its transpose: it crosses over in
// tiles of 32 x 32 through shared memory.
#pragma once

#include "common/cuda/reduce.cuh"
#include "muon/half.cuh"
#include "muon/muon_row.h"

namespace nanochat::muon {

inline constexpr int kStepThreads = 256;
inline constexpr int kStepWarps = kStepThreads / cuda::kWarp;
inline constexpr int kStepRows = 32;           // of a block
inline constexpr int kMatricesPerLaunch = 64;  // addresses travel as arguments of the kernel

template <typename T>
struct MatrixList {
  T* at[kMatricesPerLaunch];
};

struct Shape {
  int m, n;
  int x_stride;  // of X, which is (n, m) if tall
  bool is_tall;
};

__device__ __forceinline__ uint16_t to_fp16(float x) {
  return static_cast<uint16_t>(pack_fp16(x, 0.0f));
}

// Momentum, row norms, and X in rows of norm 1, zeros in the padding, which is shorter than what a
// block covers. Grid: rows / 32, matrices.
template <typename T>
__global__ void __launch_bounds__(kStepThreads)
    begin_kernel(const MatrixList<const T> grads, float* buffers, uint16_t* xs, float* norms,
                 const Shape shape, const Momentum momentum) {
  __shared__ float inv_norms[kStepRows];
  __shared__ float tile[kStepRows][cuda::kWarp + 1];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int m = shape.m, n = shape.n, first = static_cast<int>(blockIdx.x) * kStepRows;
  const T* grad = grads.at[blockIdx.y];
  float* buffer = buffers + int64_t{blockIdx.y} * m * n;
  uint16_t* x = xs + int64_t{blockIdx.y} * (shape.is_tall ? n : m) * shape.x_stride;
  const auto element = [&](int r, int j) {
    const int64_t at = int64_t{first + r} * n + j;
    return momentum.nesterov(load(grad[at]), buffer[at]) * inv_norms[r];
  };

  for (int r = warp; r < kStepRows && first + r < m; r += kStepWarps) {
    const int64_t row = int64_t{first + r} * n;
    float sum = 0.0f;
#pragma unroll 4
    for (int j = lane; j < n; j += cuda::kWarp) {
      const float g = load(grad[row + j]);
      const float b = momentum.buffer(buffer[row + j], g);
      buffer[row + j] = b;
      const float y = momentum.nesterov(g, b);
      sum += y * y;
    }
    const float norm = std::sqrt(cuda::reduce_lanes<cuda::kWarp>(sum, cuda::Sum{}));
    if (lane == 0) {
      norms[int64_t{blockIdx.y} * m + first + r] = norm;
      inv_norms[r] = 1.0f / at_least(norm, kMinNorm);
    }
  }
  __syncthreads();
  if (!shape.is_tall) {
    for (int r = warp; r < kStepRows && first + r < m; r += kStepWarps) {
      uint16_t* out = x + int64_t{first + r} * shape.x_stride;
#pragma unroll 4
      for (int j = lane; j < shape.x_stride; j += cuda::kWarp) {
        out[j] = to_fp16(j < n ? element(r, j) : 0.0f);
      }
    }
    return;
  }
  for (int left = 0; left < n; left += cuda::kWarp) {
    for (int r = warp; r < kStepRows; r += kStepWarps) {
      tile[r][lane] = first + r < m && left + lane < n ? element(r, left + lane) : 0.0f;
    }
    __syncthreads();
    for (int c = warp; c < cuda::kWarp && left + c < n; c += kStepWarps) {
      if (first + lane < shape.x_stride) {
        x[int64_t{left + c} * shape.x_stride + first + lane] = to_fp16(tile[lane][c]);
      }
    }
    __syncthreads();
  }
}

// A block for each matrix.
static __global__ void __launch_bounds__(kStepThreads)
    scale_kernel(const float* norms, float* scales, int m) {
  __shared__ float scratch[kStepWarps];
  const float* mine = norms + int64_t{blockIdx.x} * m;
  float squares = 0.0f, live = 0.0f;
  for (int i = threadIdx.x; i < m; i += kStepThreads) {
    const float norm = mine[i], unit = norm / at_least(norm, kMinNorm);
    squares += norm * norm;
    live += unit * unit;
  }
  squares = cuda::reduce_block<kStepThreads>(squares, scratch, cuda::Sum{});
  live = cuda::reduce_block<kStepThreads>(live, scratch, cuda::Sum{});
  if (threadIdx.x == 0) scales[blockIdx.x] = start_scale(squares, live, m);
}

// Squares of the columns of X (rows x columns), 64 for a block. Grid: columns / 64, matrices.
static __global__ void __launch_bounds__(kStepThreads)
    square_columns_kernel(const uint16_t* xs, float* squares, int rows, int columns, int stride) {
  __shared__ float sums[kStepWarps][2 * cuda::kWarp];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int first = static_cast<int>(blockIdx.x) * 2 * cuda::kWarp, column = first + 2 * lane;
  const uint16_t* x = xs + int64_t{blockIdx.y} * rows * stride + column;
  float low = 0.0f, high = 0.0f;
  if (column < stride) {
#pragma unroll 4
    for (int r = warp; r < rows; r += kStepWarps) {
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(x + int64_t{r} * stride);
      const float x0 = from_fp16(static_cast<uint16_t>(pair));
      const float x1 = from_fp16(static_cast<uint16_t>(pair >> 16));
      low += x0 * x0;
      high += x1 * x1;
    }
  }
  sums[warp][2 * lane] = low;
  sums[warp][2 * lane + 1] = high;
  __syncthreads();
  const int mine = static_cast<int>(threadIdx.x);
  if (mine < 2 * cuda::kWarp && first + mine < columns) {
    float sum = 0.0f;
    for (int w = 0; w < kStepWarps; ++w) sum += sums[w][mine];
    squares[int64_t{blockIdx.y} * columns + first + mine] = sum;
  }
}

// Squares of the rows of X (rows x stride), a warp for each. Grid: rows / 8, matrices.
static __global__ void __launch_bounds__(kStepThreads)
    square_rows_kernel(const uint16_t* xs, float* squares, int rows, int stride) {
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int row = static_cast<int>(blockIdx.x) * kStepWarps + warp;
  if (row >= rows) return;
  const uint16_t* x = xs + (int64_t{blockIdx.y} * rows + row) * stride;
  float sum = 0.0f;
#pragma unroll 4
  for (int j = lane; j < stride; j += cuda::kWarp) sum += from_fp16(x[j]) * from_fp16(x[j]);
  sum = cuda::reduce_lanes<cuda::kWarp>(sum, cuda::Sum{});
  if (lane == 0) squares[int64_t{blockIdx.y} * rows + row] = sum;
}

// From squares to factors in their place, and the running mean. A block for each matrix.
static __global__ void __launch_bounds__(kStepThreads)
    damp_kernel(float* factors, float* seconds, int m, int n, float one_minus_beta2) {
  __shared__ float scratch[kStepWarps];
  const int length = m < n ? n : m;
  float* factor = factors + int64_t{blockIdx.x} * length;
  float* second = seconds + int64_t{blockIdx.x} * length;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < length; i += kStepThreads) sum += factor[i];
  sum = cuda::reduce_block<kStepThreads>(sum, scratch, cuda::Sum{});
  const SecondMoment moment(sum, m, n, one_minus_beta2);
  float damped = 0.0f;
  for (int i = threadIdx.x; i < length; i += kStepThreads) {
    const float squares = factor[i];
    factor[i] = moment.factor(squares, second[i]);
    damped += squares * factor[i] * factor[i];
  }
  damped = cuda::reduce_block<kStepThreads>(damped, scratch, cuda::Sum{});
  const float common = moment.common(damped);
  for (int i = threadIdx.x; i < length; i += kStepThreads) factor[i] *= common;
}

// The update. Grid: rows / 32, matrices.
template <typename T>
__global__ void __launch_bounds__(kStepThreads)
    end_kernel(const MatrixList<T> params, const uint16_t* xs, const float* factors,
               const Shape shape, const Update update) {
  __shared__ uint16_t tile[cuda::kWarp][kStepRows + 2];
  const int lane = threadIdx.x % cuda::kWarp, warp = threadIdx.x / cuda::kWarp;
  const int m = shape.m, n = shape.n, first = static_cast<int>(blockIdx.x) * kStepRows;
  const bool is_by_row = m >= n;
  T* param = params.at[blockIdx.y];
  const uint16_t* x = xs + int64_t{blockIdx.y} * (shape.is_tall ? n : m) * shape.x_stride;
  const float* factor = factors + int64_t{blockIdx.y} * (is_by_row ? m : n);
  const auto move = [&](int r, int j, uint16_t half) {
    T& p = param[int64_t{first + r} * n + j];
    store(p, update.param(load(p), from_fp16(half) * factor[is_by_row ? first + r : j]));
  };

  if (!shape.is_tall) {
    for (int r = warp; r < kStepRows && first + r < m; r += kStepWarps) {
      const uint16_t* row = x + int64_t{first + r} * shape.x_stride;
#pragma unroll 4
      for (int j = lane; j < n; j += cuda::kWarp) move(r, j, row[j]);
    }
    return;
  }
  for (int left = 0; left < n; left += cuda::kWarp) {
    for (int c = warp; c < cuda::kWarp && left + c < n; c += kStepWarps) {
      if (first + lane < m) {
        tile[c][lane] = x[int64_t{left + c} * shape.x_stride + first + lane];
      }
    }
    __syncthreads();
    if (left + lane < n) {
      for (int r = warp; r < kStepRows && first + r < m; r += kStepWarps) {
        move(r, left + lane, tile[lane][r]);
      }
    }
    __syncthreads();
  }
}

}  // namespace nanochat::muon
