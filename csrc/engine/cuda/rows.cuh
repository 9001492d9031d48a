// Kernels 3, 4, 5 and the head: W times activations for 16 or 32 rows of W in a block of eight
// warps. Warp w takes blocks of channels w, w + 8, ...; the eight partial sums of an element are
// added in the order of warps, and what happens to the result is the epilogue's.
//
//            channels, 32 a block                    tokens
//   rows   | w0 | w1 | .. | w7 | w0 | ..     x     | 8 | 8 | ..     grid: (token tiles, row tiles),
//    16    |  1 KB each                            |   |   |        tokens fastest, so that a row
//   (x 2)                                                           tile comes from L2 after once
#pragma once

#include "engine/cuda/gemm.cuh"
#include "engine/cuda/launch.cuh"

namespace nanochat::engine::cuda {

inline constexpr int kRowsWarps = 8;
inline constexpr int kRowsThreads = kRowsWarps * kWarp;
inline constexpr int kSumStride =
    kMmaRows + 4;  // floats a token: the stores of a warp hit 32 banks

// With many tokens two row tiles share each reading of the activations, which then cost most.
template <int kColumns>
inline constexpr int kRowTilesOf = kColumns >= 4 ? 2 : 1;
static_assert(kRowPadding == 2 * kMmaRows);

template <int kColumns, typename Epilogue>
__global__ void __launch_bounds__(kRowsThreads)
    rows_kernel(const Gemm gemm, const Epilogue epilogue) {
  constexpr int kRowTiles = kRowTilesOf<kColumns>;
  constexpr int kTokens = kColumns * kMmaTokens;
  __shared__ float partial[kRowsWarps][kTokens * kSumStride];
  __shared__ float norms[kTokens];

  let_next_start();
  const int tile = static_cast<int>(blockIdx.x);
  const int first_row_tile = static_cast<int>(blockIdx.y) * kRowTiles;
  const int num_blocks = gemm.channels / kBlockChannels;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  WeightStream<kRowTiles, kColumns> stream(gemm.weights, first_row_tile, num_blocks, warp,
                                           kRowsWarps);
  stream.start_weights();
  wait_for_previous();
  stream.start_activations(gemm.activations + int64_t{tile} * kTokenTile * gemm.channels);
  if constexpr (Epilogue::kNormed) {
    inverse_norms<kColumns, kRowsThreads>(epilogue.p.in, tile, norms);
  }
  float sums[kRowTiles][kColumns][4] = {};
  stream.multiply(sums);

#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    if (m > 0) __syncthreads();  // partial is read
    store_sums<kColumns>(sums[m], partial[warp], kSumStride);
    __syncthreads();
    // Whole warps: sixteen lanes have the rows of one token.
    for (int i = static_cast<int>(threadIdx.x); i < kTokens * kMmaRows; i += kRowsThreads) {
      const int token = i / kMmaRows, row = i % kMmaRows;
      float sum = partial[0][token * kSumStride + row];
#pragma unroll
      for (int w = 1; w < kRowsWarps; ++w) sum += partial[w][token * kSumStride + row];
      epilogue(int64_t{tile} * kTokenTile + token, (first_row_tile + m) * kMmaRows + row, sum,
               Epilogue::kNormed ? norms[token] : 1.0f);
    }
  }
}

template <typename Epilogue>
void launch_rows(const Launcher& where, const char* what, const Gemm& gemm,
                 const Epilogue& epilogue, int num_tokens) {
  with_columns(num_tokens, [&](auto columns) {
    const dim3 grid(token_tiles(num_tokens),
                    static_cast<unsigned>(gemm.rows / (kMmaRows * kRowTilesOf<columns>)));
    launch(where, what, rows_kernel<columns, Epilogue>, grid, kRowsThreads, gemm, epilogue);
  });
}

}  // namespace nanochat::engine::cuda
