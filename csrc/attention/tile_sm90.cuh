// What the Hopper kernels share: tiles that TMA brings, the two products of attention on them by a
// warpgroup, and the way back of a result.
//
//   scores    c (64, n) = a (64, D) b (n, D)^T     a, b shared tiles, k runs along their rows
//   weighted  c (64, D) += p (64, n) b (n, D)      p in registers, k runs down the rows of b
//
// The accumulators of the first, packed, are the first operand of the second: scores never leave
// registers, and no tile is ever transposed in memory.
#pragma once

#include "common/cuda/sm90.cuh"

namespace nanochat::attention::hopper {

inline constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
inline constexpr int kDepth = 16;      // k of one wgmma
inline constexpr int kGroupRows = 64;  // rows of the accumulators of a warpgroup

// kRows tokens of one head, as panels of 64 columns.
template <int kRows, int kHeadDim>
struct SharedTile {
  static constexpr int kPanels = kHeadDim / cuda::kPanelColumns;
  static constexpr int kPanelBytes = kRows * cuda::kPanelRowBytes;
  static constexpr int kBytes = kPanels * kPanelBytes;
  static_assert(kPanelBytes % cuda::kSwizzleBytes == 0);

  uint8_t* data;

  // By one thread. Rows from T on become zeros.
  __device__ __forceinline__ void load(const CUtensorMap* map, uint64_t* full, int row, int head,
                                       int batch) const {
#pragma unroll
    for (int panel = 0; panel < kPanels; ++panel) {
      cuda::tma_load(data + panel * kPanelBytes, map, full, panel * cuda::kPanelColumns, head, row,
                     batch);
    }
  }
};

template <int kHeadDim>
using GroupTile = SharedTile<kGroupRows, kHeadDim>;  // what one warpgroup works for

// A place in a ring of stages. A stage that comes round again is in the other phase.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t phase = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1u;
    }
  }
};

// Full: the tile is in shared memory. Empty: all warps that read it are done.
struct Stage {
  uint64_t full, empty;

  __device__ __forceinline__ void init(int num_producers, int num_consumer_warps) {
    cuda::mbarrier_init(&full, static_cast<uint32_t>(num_producers));
    cuda::mbarrier_init(&empty, static_cast<uint32_t>(num_consumer_warps));
  }

  // By a consumer, after its wgmma on the tile have ended.
  __device__ __forceinline__ void release() {
    __syncwarp();
    if (threadIdx.x % 32 == 0) cuda::mbarrier_arrive(&empty);
  }
};

template <int kN, int kHeadDim>
__device__ __forceinline__ void scores(float (&c)[kN / 2], const GroupTile<kHeadDim>& a,
                                       const SharedTile<kN, kHeadDim>& b) {
  const uint32_t a_address = cuda::shared_address(a.data), b_address = cuda::shared_address(b.data);
  constexpr int kSteps = cuda::kPanelColumns / kDepth;  // per panel
#pragma unroll
  for (int k = 0; k < kHeadDim / kDepth; ++k) {
    const int panel = k / kSteps, column = k % kSteps * kDepth;
    cuda::wgmma<kN, cuda::Major::kK>(
        c, cuda::k_major_descriptor(a_address + panel * a.kPanelBytes, column),
        cuda::k_major_descriptor(b_address + panel * b.kPanelBytes, column), k > 0);
  }
}

template <int kN, int kHeadDim>
__device__ __forceinline__ void weighted(float (&c)[kHeadDim / 2],
                                         const uint32_t (&p)[kN / kDepth][4],
                                         const SharedTile<kN, kHeadDim>& b, bool accumulate) {
  const uint32_t address = cuda::shared_address(b.data);
#pragma unroll
  for (int k = 0; k < kN / kDepth; ++k) {
    cuda::wgmma<kHeadDim, cuda::Major::kMN>(
        c, p[k], cuda::mn_major_descriptor(address, k * kDepth, b.kPanelBytes),
        accumulate || k > 0);
  }
}

// Accumulators, rounded, as first operand.
template <int kN>
__device__ __forceinline__ void pack(const float (&c)[kN / 2], uint32_t (&a)[kN / kDepth][4]) {
#pragma unroll
  for (int k = 0; k < kN / kDepth; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[k][i] = cuda::pack_bf16(c[8 * k + 2 * i], c[8 * k + 2 * i + 1]);
    }
  }
}

// The first row of a thread's accumulators, counted from that of its warpgroup; the other is 8 on.
__device__ __forceinline__ int accumulator_row() {
  const int thread = static_cast<int>(threadIdx.x) % cuda::kWarpgroup;
  return thread / 32 * 16 + thread % 32 / 4;
}

// Calls f(element, row, column, half) for a thread's accumulators, half naming the row of its two.
template <int kSize, typename F>
__device__ __forceinline__ void for_each(float (&c)[kSize], const F& f) {
  const int row = accumulator_row(), column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    f(c[i], row + i / 2 % 2 * 8, i / 4 * 8 + column + i % 2, i / 2 % 2);
  }
}

// The 16 bytes that a lane names to ldmatrix and stmatrix for its warp's rows and columns 16 k ..
// 16 k + 15.
template <int kHeadDim>
__device__ __forceinline__ uint8_t* row_chunk(const GroupTile<kHeadDim>& tile, int k) {
  constexpr int kPairs = cuda::kPanelColumns / 16;  // of chunks, per panel
  const int thread = static_cast<int>(threadIdx.x) % cuda::kWarpgroup, lane = thread % 32;
  return tile.data + k / kPairs * tile.kPanelBytes +
         cuda::swizzled_offset(thread / 32 * 16 + lane % 16, k % kPairs * 2 + lane / 16);
}

// Rows of a tile in the order of accumulators, two neighbours to a word: load_rows(y, tile) has of
// columns 16 k .. 16 k + 15 what accumulators 8 k .. 8 k + 7 are of.
template <int kHeadDim>
__device__ __forceinline__ void load_rows(uint32_t (&y)[kHeadDim / 16][4],
                                          const GroupTile<kHeadDim>& tile) {
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) cuda::ldmatrix_x4(y[k], row_chunk(tile, k));
}

// Starts the way of accumulators, rounded, to rows row .. row + 63 of the tensor that are below T,
// by way of `tile`, which no other warpgroup may use. It has ended after tma_store_finish().
// `barrier` is of this warpgroup.
template <int kHeadDim>
__device__ __forceinline__ void start_store(const float (&c)[kHeadDim / 2],
                                            const GroupTile<kHeadDim>& tile, const CUtensorMap* map,
                                            int row, int head, int batch, int barrier) {
  const int thread = static_cast<int>(threadIdx.x) % cuda::kWarpgroup;
  cuda::named_barrier_sync(barrier, cuda::kWarpgroup);  // all have read what is overwritten
  uint32_t r[kHeadDim / 16][4];
  pack<kHeadDim>(c, r);
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) cuda::stmatrix_x4(row_chunk(tile, k), r[k]);
  cuda::fence_async_proxy();
  cuda::named_barrier_sync(barrier, cuda::kWarpgroup);
  if (thread == 0) {
#pragma unroll
    for (int panel = 0; panel < tile.kPanels; ++panel) {
      cuda::tma_store(map, tile.data + panel * tile.kPanelBytes, panel * cuda::kPanelColumns, head,
                      row, batch);
    }
  }
}

}  // namespace nanochat::attention::hopper
