// The three products of a polynomial on tensor cores (sm_80 and later), a stack of matrices in one
// launch, fp16 in and out, sums in fp32, each polynomial rounded once:
//
//   gram    A  = X X^T                     half of the tiles, the other half is mirrored
//   poly    B  = b s^2 A + c s^4 A A       the same; A is symmetric, so A A = A A^T
//   update  X' = s (a X + B X)             all tiles; X is read along its rows, B is symmetric
//
// with s the scale of a matrix that the first polynomial starts from, and 1 afterwards.
//
// Roofline, n x n of width 1536, H200 (990 TFLOP/s dense fp16 with wgmma; mma.sync reaches about
// 60 % of it): 2 n^3 FLOP against 6 n^2 bytes is 512 FLOP/B, twice the ridge: bound by arithmetic.
// With half the tiles, 6 n^3 FLOP of a polynomial become 4 n^3 for square matrices and 18 become
// 13 for 1:4.
//
// A block computes 128 x 128 of one matrix with 8 warps of 64 x 32. Operands arrive 32 deep by
// cp.async in a ring of 4 stages; rows of 64 (or 256) bytes are swizzled in pieces of 16, so that
// ldmatrix meets no bank twice. The tile leaves through shared memory in rows, and for its mirror
// in columns: both stores to memory are whole pieces of 16 bytes.
//
// Rows beyond the matrix are zeros on arrival. Columns are counted up to the padded row stride:
// those of the padding are products with zeros, so they are zeros again and need no mask.
#pragma once

#include "common/cuda/mma.cuh"
#include "muon/half.cuh"
#include "muon/triangle.h"

namespace nanochat::muon {

enum class ProductKind { kGram, kPoly, kUpdate };

struct GemmArgs {
  const uint16_t* u;     // (K, rows, u_stride): X, A or B
  const uint16_t* w;     // X or A
  uint16_t* c;           // (K, rows, c_stride)
  const float* scales;   // s of each matrix; null: 1
  float a, b, c_factor;  // of the polynomial
  int rows;              // of u and c; and of w
  int u_stride;          // elements, multiples of 8; the depth of the product
  int w_stride;
  int c_stride;
};

struct GemmTile {
  static constexpr int kBlock = 128;  // rows and columns of a tile
  static constexpr int kDepth = 32;   // two steps of the instruction
  static constexpr int kStages = 4;
  static constexpr int kWarpsM = 2, kWarpsN = 4;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kWarpM = kBlock / kWarpsM, kWarpN = kBlock / kWarpsN;
  static constexpr int kOperandBytes = kBlock * kDepth * 2;
  static constexpr int kStageBytes = 2 * kOperandBytes;
  static constexpr int kSmemBytes = kStages * kStageBytes;
  // The tile on its way out. Rows are 16 bytes longer, so that both orders of writing are free of
  // conflicts.
  static constexpr int kOutPitch = kBlock + 8;
  static_assert(kBlock * kOutPitch * 2 <= kSmemBytes, "the ring has no room for the tile");
  static_assert(2 * kSmemBytes <= 160 << 10, "two blocks do not fit an SM of sm_80");
};

// Byte of a 16-byte piece in a tile of 64-byte rows (32 deep), and in one of 256-byte rows.
NANOCHAT_HD int narrow_offset(int row, int piece) {
  return row * 64 + (piece ^ (row / 2 % 4)) * 16;
}
NANOCHAT_HD int broad_offset(int row, int piece) {
  return row * 256 + (piece ^ (row % 8)) * 16;
}

template <ProductKind kKind>
struct GemmBlock {
  using Tile = GemmTile;
  static constexpr bool kSymmetric = kKind != ProductKind::kUpdate;
  static constexpr int kTilesM = Tile::kWarpM / 16, kTilesN = Tile::kWarpN / 8;

  const GemmArgs& args;
  const uint16_t* u;
  const uint16_t* w;
  int row, column;  // first of the tile
  char* smem;

  // Rows first .. first + 128 of `from`, kDepth columns from k.
  __device__ __forceinline__ void load_rows(char* to, const uint16_t* from, int stride, int first,
                                            int k) const {
#pragma unroll
    for (int i = threadIdx.x; i < Tile::kBlock * 4; i += Tile::kThreads) {
      const int r = i / 4, piece = i % 4;
      const bool valid = first + r < args.rows && k + piece * 8 < stride;
      const int64_t at = valid ? int64_t{first + r} * stride + k + piece * 8 : 0;
      cuda::cp_async_16(to + narrow_offset(r, piece), from + at, valid);
    }
  }

  // kDepth rows of w from k, 128 columns.
  __device__ __forceinline__ void load_columns(char* to, int k) const {
#pragma unroll
    for (int i = threadIdx.x; i < Tile::kDepth * 16; i += Tile::kThreads) {
      const int r = i / 16, piece = i % 16;
      const bool valid = k + r < args.rows && column + piece * 8 < args.w_stride;
      const int64_t at = valid ? int64_t{k + r} * args.w_stride + column + piece * 8 : 0;
      cuda::cp_async_16(to + broad_offset(r, piece), w + at, valid);
    }
  }

  __device__ __forceinline__ void load_stage(int step) const {
    char* stage = smem + step % Tile::kStages * Tile::kStageBytes;
    load_rows(stage, u, args.u_stride, row, step * Tile::kDepth);
    if constexpr (kSymmetric) {
      load_rows(stage + Tile::kOperandBytes, w, args.w_stride, column, step * Tile::kDepth);
    } else {
      load_columns(stage + Tile::kOperandBytes, step * Tile::kDepth);
    }
  }

  __device__ __forceinline__ void multiply(float (&acc)[kTilesM][kTilesN][4]) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / Tile::kWarpsN * Tile::kWarpM;
    const int warp_column = warp % Tile::kWarpsN * Tile::kWarpN;
    const int num_steps = (args.u_stride + Tile::kDepth - 1) / Tile::kDepth;
#pragma unroll
    for (int step = 0; step < Tile::kStages - 1; ++step) {
      if (step < num_steps) load_stage(step);
      cuda::cp_async_commit();
    }
    for (int step = 0; step < num_steps; ++step) {
      cuda::cp_async_wait<Tile::kStages - 2>();
      __syncthreads();  // the step has arrived for all; all have left the stage that is next
      if (step + Tile::kStages - 1 < num_steps) load_stage(step + Tile::kStages - 1);
      cuda::cp_async_commit();
      const char* u_tile = smem + step % Tile::kStages * Tile::kStageBytes;
      const char* w_tile = u_tile + Tile::kOperandBytes;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t a[kTilesM][4], b[kTilesN / 2][4];
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
          cuda::ldmatrix_x4(
              a[i], u_tile + narrow_offset(warp_row + i * 16 + lane % 16, half * 2 + lane / 16));
        }
#pragma unroll
        for (int j = 0; j < kTilesN / 2; ++j) {
          const int at = warp_column + j * 16;
          if constexpr (kSymmetric) {
            cuda::ldmatrix_x4(b[j], w_tile + narrow_offset(at + lane / 16 * 8 + lane % 8,
                                                           half * 2 + lane / 8 % 2));
          } else {
            cuda::ldmatrix_x4_trans(
                b[j], w_tile + broad_offset(half * 16 + lane % 16, at / 8 + lane / 16));
          }
        }
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
          for (int j = 0; j < kTilesN; ++j) {
            const uint32_t pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
            cuda::mma_fp16(acc[i][j], a[i], pair);
          }
        }
      }
    }
    cuda::cp_async_wait<0>();
    __syncthreads();  // the ring is free
  }

  // Calls f(r, c, x0, x1) for each pair of neighbours (r, c), (r, c + 1) in the tile.
  template <typename F>
  __device__ __forceinline__ static void for_each_pair(float (&acc)[kTilesM][kTilesN][4],
                                                       const F& f) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
      for (int j = 0; j < kTilesN; ++j) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          f(warp / Tile::kWarpsN * Tile::kWarpM + i * 16 + h * 8 + lane / 4,
            warp % Tile::kWarpsN * Tile::kWarpN + j * 8 + lane % 4 * 2, acc[i][j][2 * h],
            acc[i][j][2 * h + 1]);
        }
      }
    }
  }

  // From shared memory to rows first_row .., columns first_column .. of c.
  __device__ __forceinline__ void store(uint16_t* c, int first_row, int first_column) const {
    for (int i = threadIdx.x; i < Tile::kBlock * 16; i += Tile::kThreads) {
      const int r = i / 16, piece = i % 16;
      if (first_row + r < args.rows && first_column + piece * 8 < args.c_stride) {
        const uint4 value =
            *reinterpret_cast<const uint4*>(smem + r * Tile::kOutPitch * 2 + piece * 16);
        *reinterpret_cast<uint4*>(c + int64_t{first_row + r} * args.c_stride + first_column +
                                  piece * 8) = value;
      }
    }
  }
};

template <ProductKind kKind>
__global__ void __launch_bounds__(GemmTile::kThreads, 2) gemm_kernel(const GemmArgs args) {
  using Tile = GemmTile;
  using Block = GemmBlock<kKind>;
  const int64_t matrix = blockIdx.y;
  TilePlace place;
  if constexpr (Block::kSymmetric) {
    place = triangle_tile(static_cast<int>(blockIdx.x));
  } else {
    const int row_tiles = (args.rows + Tile::kBlock - 1) / Tile::kBlock;
    place = {static_cast<int>(blockIdx.x) % row_tiles, static_cast<int>(blockIdx.x) / row_tiles};
  }
  const Block block{.args = args,
                    .u = args.u + matrix * args.rows * args.u_stride,
                    .w = args.w + matrix * args.rows * args.w_stride,
                    .row = place.row * Tile::kBlock,
                    .column = place.column * Tile::kBlock,
                    .smem = cuda::dynamic_shared()};
  uint16_t* c = args.c + matrix * args.rows * args.c_stride;

  float acc[Block::kTilesM][Block::kTilesN][4] = {};
  block.multiply(acc);

  if constexpr (kKind != ProductKind::kGram) {
    const float s = args.scales != nullptr ? args.scales[matrix] : 1.0f;
    const bool is_poly = kKind == ProductKind::kPoly;
    const float scale = is_poly ? args.c_factor * s * s * s * s : s;
    const float beta = is_poly ? args.b * s * s : args.a * s;
    Block::for_each_pair(acc, [&](int r, int col, float& x0, float& x1) {
      const int i = block.row + r, j = block.column + col;
      uint32_t e = 0;  // of w, which has the shape of c
      if (i < args.rows && j < args.c_stride) {
        e = *reinterpret_cast<const uint32_t*>(block.w + int64_t{i} * args.w_stride + j);
      }
      x0 = scale * x0 + beta * from_fp16(static_cast<uint16_t>(e));
      x1 = scale * x1 + beta * from_fp16(static_cast<uint16_t>(e >> 16));
    });
  }
  Block::for_each_pair(acc, [&](int r, int col, float x0, float x1) {
    *reinterpret_cast<uint32_t*>(block.smem + (r * Tile::kOutPitch + col) * 2) = pack_fp16(x0, x1);
  });
  __syncthreads();
  block.store(c, block.row, block.column);
  if (Block::kSymmetric && place.row != place.column) {
    __syncthreads();
    Block::for_each_pair(acc, [&](int r, int col, float x0, float x1) {
      const uint32_t pair = pack_fp16(x0, x1);
      auto* out = reinterpret_cast<uint16_t*>(block.smem);
      out[col * Tile::kOutPitch + r] = static_cast<uint16_t>(pair);
      out[(col + 1) * Tile::kOutPitch + r] = static_cast<uint16_t>(pair >> 16);
    });
    __syncthreads();
    block.store(c, block.column, block.row);
  }
}

}  // namespace nanochat::muon
