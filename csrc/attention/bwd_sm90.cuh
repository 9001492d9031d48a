// Backward on Hopper, in two kernels whose sums have one owner each: no atomics, so the same inputs
// give the same bits, at the price of 7 products instead of 5.
//
//   dq      a block has queries, 64 to a warpgroup; tiles of keys pass by
//             s = q k^T, dp = dout v^T, p = exp(s - lse), ds = p (dp - delta)     dq += ds k
//           before that it sums delta = dout . out of its rows, for itself and for the other kernel
//   dk, dv  a block has keys, 64 to a warpgroup; tiles of queries pass by, of all heads of its
//           group
//             s = k q^T, dp = v dout^T, p and ds as above      dv += p dout,  dk += ds q
//           rows are keys, so p and ds are first operands as they leave the accumulators
//   both    dq and dk go back through norm and rope on their way out (rope_norm.cuh)
//
//             keys, kBlockN each                         queries, kBlockM each
//   queries  | edge | full | diag |              keys   | diag | full | edge |
//                   | edge | full | diag |                     | diag | full | edge |
//
//   tensor cores     s | dp     | dv += p dout | dk += ds q |      one warpgroup; the other fills
//   other pipes          p = exp  ds           |            |      what it leaves idle
#pragma once

#include <cmath>

#include "attention/mask.h"
#include "attention/rope_norm.cuh"
#include "attention/tile_sm90.cuh"
#include "attention/tiles_sm90.h"
#include "common/cuda/approx.cuh"
#include "common/cuda/reduce.cuh"
#include "common/cuda/vector.cuh"

namespace nanochat::attention::hopper {

struct BwdArgs {
  Rows<const BFloat16> out, dout;  // for what TMA does not bring
  RopeNormRows rope_norm;
  const float* lse;  // (B, H, T)
  float* delta;      // (B, H, T)
  int T, H, window, heads_per_kv;
  float scale, scale_log2;  // of scores: itself, and for powers of 2
};

// Tiles that stay (64 rows to a warpgroup, of two tensors), and a ring for those that pass by.
template <typename Tile, int kRingRows, int kHeadDim>
struct BwdShared {
  using RingTile = SharedTile<kRingRows, kHeadDim>;
  struct Barriers {
    uint64_t own;
    Stage first[Tile::kStages], second[Tile::kStages];
  };
  static_assert(sizeof(Barriers) <= kBarrierBytes);

  uint8_t* base;

  __device__ __forceinline__ GroupTile<kHeadDim> own_first(int consumer) const {
    return {base + consumer * GroupTile<kHeadDim>::kBytes};
  }
  __device__ __forceinline__ GroupTile<kHeadDim> own_second(int consumer) const {
    return own_first(Tile::kConsumers + consumer);
  }
  __device__ __forceinline__ RingTile first(int stage) const {
    return {own_first(2 * Tile::kConsumers).data + stage * RingTile::kBytes};
  }
  __device__ __forceinline__ RingTile second(int stage) const {
    return first(Tile::kStages + stage);
  }
  __device__ __forceinline__ Barriers& barriers() const {
    return *reinterpret_cast<Barriers*>(first(2 * Tile::kStages).data);
  }
  // lse, for powers of 2, and delta of the queries of a stage.
  __device__ __forceinline__ float* stats(int stage) const {
    return reinterpret_cast<float*>(first(2 * Tile::kStages).data + kBarrierBytes) +
           stage * 2 * kRingRows;
  }

  // By one thread: the tiles that stay, rows row .. of both tensors.
  __device__ __forceinline__ void load_own(const CUtensorMap* first_map,
                                           const CUtensorMap* second_map, int row, int head,
                                           int batch) const {
    uint64_t* const full = &barriers().own;
    cuda::mbarrier_arrive_expect(full, 2 * Tile::kConsumers * GroupTile<kHeadDim>::kBytes);
#pragma unroll
    for (int i = 0; i < Tile::kConsumers; ++i) {
      own_first(i).load(first_map, full, row + i * kGroupRows, head, batch);
      own_second(i).load(second_map, full, row + i * kGroupRows, head, batch);
    }
  }

  __device__ __forceinline__ void init_barriers(int num_producers) const {
    if (threadIdx.x == 0) {
      cuda::mbarrier_init(&barriers().own, 1);
      for (int i = 0; i < Tile::kStages; ++i) {
        barriers().first[i].init(num_producers, Tile::kConsumerWarps);
        barriers().second[i].init(1, Tile::kConsumerWarps);
      }
      cuda::mbarrier_init_fence();
    }
    __syncthreads();
  }
};

// Sums over a warpgroup's tile of normed rows, from row `row` on, become gradients of raw ones.
template <int kHeadDim>
__device__ __forceinline__ void to_raw(float (&c)[kHeadDim / 2], const GroupTile<kHeadDim>& normed,
                                       const BwdArgs& args, const Rows<const float>& inv_rms,
                                       int row, int head, int batch) {
  uint32_t y[kHeadDim / 16][4];
  load_rows<kHeadDim>(y, normed);
  rope_norm_backward<kHeadDim>([&](int n, int i) -> float& { return c[4 * n + i]; },
                               [&](int k) -> const uint32_t (&)[4] { return y[k]; }, args.rope_norm,
                               inv_rms, {batch, row + accumulator_row(), head, args.T}, args.scale);
}

// ---- dq

// dout . out of a row, by the four lanes that share it.
template <int kHeadDim>
__device__ __forceinline__ float row_delta(const BFloat16* dout, const BFloat16* out) {
  constexpr int kChunk = cuda::kVectorSize<BFloat16>;
  float delta = 0.0f;
#pragma unroll
  for (int d = 0; d < kHeadDim; d += 4 * kChunk) {
    const int column = d + static_cast<int>(threadIdx.x) % 4 * kChunk;
    float x[kChunk], y[kChunk];
    cuda::load_vector(dout + column, x);
    cuda::load_vector(out + column, y);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) delta = fmaf(x[i], y[i], delta);
  }
  return cuda::reduce_lanes<4>(delta, cuda::Sum{});
}

template <int kHeadDim, typename Tile, typename Shared>
__device__ __forceinline__ void sum_dq(const Shared& shared, const CUtensorMap* dq_map,
                                       const BwdArgs& args, int consumer, int query, int head,
                                       int batch, const TileRange& keys) {
  constexpr int kN = Tile::kBlockN;
  auto& barriers = shared.barriers();
  const GroupTile<kHeadDim> q = shared.own_first(consumer), dout = shared.own_second(consumer);

  float lse_log2[2], delta[2];  // of a thread's two rows
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = query + accumulator_row() + 8 * half;
    const bool is_inside = row < args.T;
    const int safe_row = is_inside ? row : 0;
    delta[half] = row_delta<kHeadDim>(args.dout.at(batch, safe_row, head),
                                      args.out.at(batch, safe_row, head));
    const int64_t at = (int64_t{batch} * args.H + head) * args.T + safe_row;
    lse_log2[half] = args.lse[at] * kLog2e;
    if (is_inside && threadIdx.x % 4 == 0) args.delta[at] = delta[half];
  }

  float s[kN / 2], dp[kN / 2], dq[kHeadDim / 2];
  uint32_t ds[kN / kDepth][4];
  RingPlace<Tile::kStages> at;
  int last = -1;  // stage of the tile before, whose dq may be under way
  cuda::mbarrier_wait(&barriers.own, 0);
  for (int tile = keys.first; tile < keys.end; ++tile, at.advance()) {
    cuda::mbarrier_wait(&barriers.first[at.stage].full, at.phase);
    cuda::wgmma_fence(s);
    scores(s, q, shared.first(at.stage));
    cuda::wgmma_commit();
    cuda::wgmma_wait<1>(dq, ds);
    if (last >= 0) barriers.first[last].release();
    cuda::mbarrier_wait(&barriers.second[at.stage].full, at.phase);
    cuda::wgmma_fence(dp);
    scores(dp, dout, shared.second(at.stage));
    cuda::wgmma_commit();

    cuda::wgmma_wait<1>(s);
    const int key = tile * kN;
    if (seen(query, kGroupRows, key, kN, args.window) != Seen::kAll) {
      for_each(s, [&](float& x, int row, int column, int) {
        if (!is_visible(query + row, key + column, args.window)) x = -INFINITY;
      });
    }
    for_each(s, [&](float& x, int, int, int half) {
      x = cuda::exp2_approx(fmaf(x, args.scale_log2, -lse_log2[half]));
    });
    cuda::wgmma_wait<0>(dp);
    barriers.second[at.stage].release();
    for_each(dp, [&](float& x, int, int, int half) { x -= delta[half]; });
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) s[i] *= dp[i];
    pack<kN>(s, ds);
    cuda::wgmma_fence(dq, ds);
    weighted(dq, ds, shared.first(at.stage), last >= 0);
    cuda::wgmma_commit();
    last = at.stage;
  }
  cuda::wgmma_wait<0>(dq, ds);
  if (query >= args.T) return;
  to_raw<kHeadDim>(dq, q, args, args.rope_norm.q_inv_rms, query, head, batch);
  start_store(dq, q, dq_map, query, head, batch, 1 + consumer);
  cuda::tma_store_finish();
}

// Grid: tiles of queries, the longest first; H; B.
template <int kHeadDim>
__global__ void __launch_bounds__(DqTile<kHeadDim>::kThreads, 1)
    dq_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
              const __grid_constant__ CUtensorMap v_map,
              const __grid_constant__ CUtensorMap dout_map,
              const __grid_constant__ CUtensorMap dq_map, const BwdArgs args) {
  using Tile = DqTile<kHeadDim>;
  const BwdShared<Tile, Tile::kBlockN, kHeadDim> shared{cuda::swizzle_aligned_shared()};
  shared.init_barriers(1);
  const int query = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Tile::kBlockM;
  const int head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  const TileRange keys = key_tiles<Tile::kBlockM, Tile::kBlockN>(query, args.T, args.window);

  const int warpgroup = cuda::warpgroup_index();
  if (warpgroup == 0) {
    cuda::release_registers_to<Tile::kProducerRegisters>();
    if (threadIdx.x != 0) return;
    shared.load_own(&q_map, &dout_map, query, head, batch);
    RingPlace<Tile::kStages> at;
#pragma unroll 1
    for (int tile = keys.first; tile < keys.end; ++tile, at.advance()) {
      const auto load = [&](const auto& to, const CUtensorMap* map, Stage& stage) {
        cuda::mbarrier_wait(&stage.empty, at.phase ^ 1u);
        cuda::mbarrier_arrive_expect(&stage.full, to.kBytes);
        to.load(map, &stage.full, tile * Tile::kBlockN, head / args.heads_per_kv, batch);
      };
      load(shared.first(at.stage), &k_map, shared.barriers().first[at.stage]);
      load(shared.second(at.stage), &v_map, shared.barriers().second[at.stage]);
    }
  } else {
    cuda::claim_registers_to<Tile::kConsumerRegisters>();
    const int consumer = warpgroup - 1;
    sum_dq<kHeadDim, Tile>(shared, &dq_map, args, consumer, query + consumer * kGroupRows, head,
                           batch, keys);
  }
}

// ---- dk, dv

// By a warp: lse and delta of a stage's queries, whose head begins at `row` of all heads' rows.
// From T on q and dout are zeros, which leave no trace in dk and dv, whatever their weights are.
template <int kRows>
__device__ __forceinline__ void load_stats(float* stats, const BwdArgs& args, int row, int query) {
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x) % cuda::kWarp; i < kRows; i += cuda::kWarp) {
    const bool is_inside = query + i < args.T;
    stats[i] = is_inside ? args.lse[row + query + i] * kLog2e : 0.0f;
    stats[kRows + i] = is_inside ? args.delta[row + query + i] : 0.0f;
  }
}

// Calls f(place in the ring, head of the group, tile) in the order in which tiles of queries pass
// by.
template <typename Tile, typename F>
__device__ __forceinline__ void for_each_stage(const TileRange& queries, int heads, const F& f) {
  RingPlace<Tile::kStages> at;
  for (int i = 0; i < heads; ++i) {
#pragma unroll 1
    for (int tile = queries.first; tile < queries.end; ++tile, at.advance()) f(at, i, tile);
  }
}

// The loading warpgroup of a block that has keys: k and v once, then tiles of q and dout.
template <typename Tile, typename Shared>
__device__ __forceinline__ void load_for_keys(const Shared& shared, const CUtensorMap* q_map,
                                              const CUtensorMap* k_map, const CUtensorMap* v_map,
                                              const CUtensorMap* dout_map, const BwdArgs& args,
                                              int key, int kv_head, int batch,
                                              const TileRange& queries) {
  const int head = kv_head * args.heads_per_kv;
  if (threadIdx.x == 0) {
    shared.load_own(k_map, v_map, key, kv_head, batch);
    for_each_stage<Tile>(queries, args.heads_per_kv, [&](const auto& at, int i, int tile) {
      const auto load = [&](const auto& to, const CUtensorMap* map, Stage& stage) {
        cuda::mbarrier_wait(&stage.empty, at.phase ^ 1u);
        cuda::mbarrier_arrive_expect(&stage.full, to.kBytes);
        to.load(map, &stage.full, tile * Tile::kBlockM, head + i, batch);
      };
      load(shared.first(at.stage), q_map, shared.barriers().first[at.stage]);
      load(shared.second(at.stage), dout_map, shared.barriers().second[at.stage]);
    });
  } else if (threadIdx.x / cuda::kWarp == 1) {
    const int first_row = (batch * args.H + head) * args.T;
    for_each_stage<Tile>(queries, args.heads_per_kv, [&](const auto& at, int i, int tile) {
      Stage& stage = shared.barriers().first[at.stage];
      cuda::mbarrier_wait(&stage.empty, at.phase ^ 1u);
      load_stats<Tile::kBlockM>(shared.stats(at.stage), args, first_row + i * args.T,
                                tile * Tile::kBlockM);
      cuda::mbarrier_arrive(&stage.full);
    });
  }
}

// Scores of keys in rows by queries in columns become weights; `stats` of load_stats.
template <int kM>
__device__ __forceinline__ void weights(float (&s)[kM / 2], const BwdArgs& args, const float* stats,
                                        int query, int key, Seen part) {
  if (part == Seen::kSome) {
    for_each(s, [&](float& x, int row, int column, int) {
      if (!is_visible(query + column, key + row, args.window)) x = -INFINITY;
    });
  }
  for_each(s, [&](float& x, int, int column, int) {
    x = cuda::exp2_approx(fmaf(x, args.scale_log2, -stats[column]));
  });
}

// Weights become the gradients of their scores.
template <int kM>
__device__ __forceinline__ void score_gradients(float (&p)[kM / 2], float (&dp)[kM / 2],
                                                const float* stats) {
  for_each(dp, [&](float& x, int, int column, int) { x -= stats[kM + column]; });
#pragma unroll
  for (int j = 0; j < kM / 2; ++j) p[j] *= dp[j];
}

template <int kHeadDim, typename Tile, typename Shared>
__device__ __forceinline__ void sum_dk_dv(const Shared& shared, const CUtensorMap* dk_map,
                                          const CUtensorMap* dv_map, const BwdArgs& args,
                                          int consumer, int key, int kv_head, int batch,
                                          const TileRange& queries) {
  constexpr int kM = Tile::kBlockM;
  auto& barriers = shared.barriers();
  const GroupTile<kHeadDim> k = shared.own_first(consumer), v = shared.own_second(consumer);
  float s[kM / 2], dp[kM / 2], dk[kHeadDim / 2], dv[kHeadDim / 2];
  uint32_t p[kM / kDepth][4], ds[kM / kDepth][4];
  bool accumulate = false;
  int pending = -1;  // stage of the tile before, whose dk may be under way
  const auto give_back_pending = [&] {
    if (pending >= 0) barriers.first[pending].release();
    pending = -1;
  };
  cuda::mbarrier_wait(&barriers.own, 0);
  for_each_stage<Tile>(queries, args.heads_per_kv, [&](const auto& at, int, int tile) {
    const int query = tile * kM;
    const Seen part = seen(query, kM, key, kGroupRows, args.window);
    cuda::mbarrier_wait(&barriers.first[at.stage].full, at.phase);
    if (part == Seen::kNone) {  // a tile that only the other warpgroup's keys want
      cuda::wgmma_wait<0>(dk, ds);
      give_back_pending();
      cuda::mbarrier_wait(&barriers.second[at.stage].full, at.phase);
      barriers.first[at.stage].release();
      barriers.second[at.stage].release();
      return;
    }
    cuda::wgmma_fence(s);
    scores(s, k, shared.first(at.stage));
    cuda::wgmma_commit();
    cuda::wgmma_wait<1>(dk, ds);
    give_back_pending();
    cuda::mbarrier_wait(&barriers.second[at.stage].full, at.phase);
    cuda::wgmma_fence(dp);
    scores(dp, v, shared.second(at.stage));
    cuda::wgmma_commit();

    cuda::wgmma_wait<1>(s);
    weights<kM>(s, args, shared.stats(at.stage), query, key, part);
    pack<kM>(s, p);
    cuda::wgmma_fence(dv, p);
    weighted(dv, p, shared.second(at.stage), accumulate);
    cuda::wgmma_commit();

    cuda::wgmma_wait<1>(dp);
    score_gradients<kM>(s, dp, shared.stats(at.stage));
    pack<kM>(s, ds);
    cuda::wgmma_fence(dk, ds);
    weighted(dk, ds, shared.first(at.stage), accumulate);
    cuda::wgmma_commit();
    cuda::wgmma_wait<1>(dv, p);
    barriers.second[at.stage].release();
    accumulate = true;
    pending = at.stage;
  });
  cuda::wgmma_wait<0>(dk, ds);
  if (key >= args.T) return;
  start_store(dv, v, dv_map, key, kv_head, batch, 1 + consumer);
  to_raw<kHeadDim>(dk, k, args, args.rope_norm.k_inv_rms, key, kv_head, batch);
  start_store(dk, k, dk_map, key, kv_head, batch, 1 + consumer);
  cuda::tma_store_finish();
}

// Grid: tiles of keys, the longest first; Hkv; B. After dq_kernel, which writes delta.
template <int kHeadDim>
__global__ void __launch_bounds__(DkDvTile<kHeadDim>::kThreads, 1)
    dk_dv_kernel(const __grid_constant__ CUtensorMap q_map,
                 const __grid_constant__ CUtensorMap k_map,
                 const __grid_constant__ CUtensorMap v_map,
                 const __grid_constant__ CUtensorMap dout_map,
                 const __grid_constant__ CUtensorMap dk_map,
                 const __grid_constant__ CUtensorMap dv_map, const BwdArgs args) {
  using Tile = DkDvTile<kHeadDim>;
  const BwdShared<Tile, Tile::kBlockM, kHeadDim> shared{cuda::swizzle_aligned_shared()};
  shared.init_barriers(1 + cuda::kWarp);
  const int key = static_cast<int>(blockIdx.x) * Tile::kBlockN;
  const int kv_head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  const TileRange queries = query_tiles<Tile::kBlockM, Tile::kBlockN>(key, args.T, args.window);

  const int warpgroup = cuda::warpgroup_index();
  if (warpgroup == 0) {
    cuda::release_registers_to<Tile::kProducerRegisters>();
    load_for_keys<Tile>(shared, &q_map, &k_map, &v_map, &dout_map, args, key, kv_head, batch,
                        queries);
  } else {
    cuda::claim_registers_to<Tile::kConsumerRegisters>();
    const int consumer = warpgroup - 1;
    sum_dk_dv<kHeadDim, Tile>(shared, &dk_map, &dv_map, args, consumer, key + consumer * kGroupRows,
                              kv_head, batch, queries);
  }
}

}  // namespace nanochat::attention::hopper
