// Forward on Hopper. A block has kBlockM queries of one head; one warpgroup loads, the others have
// 64 queries each.
//
//                      keys, kBlockN each, right to left
//   queries       | full | full | full | diag |      Q stays, K and V pass by in a ring of kStages
//   64 to a       |      | full | full | diag |
//   warpgroup
//
//   loader        K0 V0 K1 V1 |K2    |V2    |K3 ...                    as stages come free
//   warpgroup 0   S0 | softmax 0 | S1 = Q K1, O += P0 V0 | softmax 1 under O | S2 ...
//   warpgroup 1        S0        | softmax 0             | S1, O ...
//
// Products overlap with softmax twice: within a warpgroup, since the next scores are asked for
// before the weights of the last are used up, and among warpgroups, which take turns at the tensor
// cores. Source: FlashAttention-3, arXiv:2407.08608. Deviation: with a known bound of the scores
// that bound stands in for the running maximum, so nothing is ever rescaled.
#pragma once

#include <cmath>

#include "attention/mask.h"
#include "attention/tile_sm90.cuh"
#include "attention/tiles_sm90.h"
#include "common/cuda/approx.cuh"
#include "common/cuda/reduce.cuh"

namespace nanochat::attention::hopper {

struct FwdArgs {
  float* lse;  // (B, H, T)
  int T, window, heads_per_kv;
  float scale_log2;  // of scores, for powers of 2
  float bound_log2;  // of |scores| so scaled, if known
};

template <typename Tile, int kHeadDim>
struct FwdShared {
  using KeyTile = SharedTile<Tile::kBlockN, kHeadDim>;
  struct Barriers {
    uint64_t q;
    Stage k[Tile::kStages], v[Tile::kStages];
  };
  static_assert(sizeof(Barriers) <= kBarrierBytes);

  uint8_t* base;

  __device__ __forceinline__ GroupTile<kHeadDim> q(int consumer) const {
    return {base + consumer * GroupTile<kHeadDim>::kBytes};
  }
  __device__ __forceinline__ KeyTile k(int stage) const {
    return {q(Tile::kConsumers).data + stage * KeyTile::kBytes};
  }
  __device__ __forceinline__ KeyTile v(int stage) const { return k(Tile::kStages + stage); }
  __device__ __forceinline__ Barriers& barriers() const {
    return *reinterpret_cast<Barriers*>(k(2 * Tile::kStages).data);
  }
};

// Weights of a thread's two rows: the largest exponent so far (or its bound) and their sum.
template <bool kIsBounded>
struct Softmax {
  float scale, max[2], sum[2] = {0.0f, 0.0f};

  __device__ __forceinline__ explicit Softmax(const FwdArgs& args) : scale(args.scale_log2) {
    max[0] = max[1] = kIsBounded ? args.bound_log2 : -INFINITY;
  }

  // Scores become weights; `factor` is what earlier ones lose.
  template <int kSize>
  __device__ __forceinline__ void weigh(float (&s)[kSize], float (&factor)[2]) {
    if constexpr (!kIsBounded) {
      float largest[2] = {max[0], max[1]};
      for_each(
          s, [&](float x, int, int, int half) { largest[half] = fmaxf(largest[half], x * scale); });
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        largest[half] = cuda::reduce_lanes<4>(largest[half], cuda::Max{});
        // A row that sees none of these keys, nor of those before, has no maximum yet.
        const float base = largest[half] == -INFINITY ? 0.0f : largest[half];
        factor[half] = cuda::exp2_approx(max[half] - base);
        sum[half] *= factor[half];
        max[half] = largest[half];
      }
    }
    const float base[2] = {max[0] == -INFINITY ? 0.0f : max[0],
                           max[1] == -INFINITY ? 0.0f : max[1]};
    for_each(s, [&](float& x, int, int, int half) {
      x = cuda::exp2_approx(fmaf(x, scale, -base[half]));
      sum[half] += x;
    });
  }

  // The sums of the whole rows, in all four lanes that share them.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int half = 0; half < 2; ++half) sum[half] = cuda::reduce_lanes<4>(sum[half], cuda::Sum{});
  }

  __device__ __forceinline__ float lse(int half) const {
    return kLn2 * (max[half] + log2f(sum[half]));
  }
};

template <typename Tile, int kHeadDim>
__device__ __forceinline__ void load_forward(const FwdShared<Tile, kHeadDim>& shared,
                                             const CUtensorMap* q_map, const CUtensorMap* k_map,
                                             const CUtensorMap* v_map, int query, int heads_per_kv,
                                             const TileRange& keys) {
  const int head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  auto& barriers = shared.barriers();
  cuda::mbarrier_arrive_expect(&barriers.q, Tile::kConsumers * GroupTile<kHeadDim>::kBytes);
#pragma unroll
  for (int i = 0; i < Tile::kConsumers; ++i) {
    shared.q(i).load(q_map, &barriers.q, query + i * kGroupRows, head, batch);
  }
  const auto load = [&](const auto& tile, const CUtensorMap* map, Stage& stage, uint32_t phase,
                        int key) {
    cuda::mbarrier_wait(&stage.empty, phase ^ 1u);
    cuda::mbarrier_arrive_expect(&stage.full, tile.kBytes);
    tile.load(map, &stage.full, key, head / heads_per_kv, batch);
  };
  RingPlace<Tile::kStages> at;
#pragma unroll 1
  for (int tile = keys.end - 1; tile >= keys.first; --tile, at.advance()) {
    const int key = tile * Tile::kBlockN;
    load(shared.k(at.stage), k_map, barriers.k[at.stage], at.phase, key);
    load(shared.v(at.stage), v_map, barriers.v[at.stage], at.phase, key);
  }
}

template <typename Tile, int kHeadDim, bool kIsBounded>
__device__ __forceinline__ void attend(const FwdShared<Tile, kHeadDim>& shared,
                                       const CUtensorMap* out_map, const FwdArgs& args,
                                       int consumer, int query, const TileRange& keys) {
  constexpr int kN = Tile::kBlockN, kTurn = 2 * cuda::kWarpgroup;
  auto& barriers = shared.barriers();
  const GroupTile<kHeadDim> q = shared.q(consumer);
  const int count = keys.end - keys.first;
  // Named barriers: 1 .. kConsumers give the turn at the tensor cores, those after are a
  // warpgroup's own.
  const int my_turn = 1 + consumer, next_turn = 1 + (consumer + 1) % Tile::kConsumers;
  const bool is_last = consumer == Tile::kConsumers - 1;

  float s[kN / 2], out[kHeadDim / 2], factor[2] = {1.0f, 1.0f};
  uint32_t p[kN / kDepth][4];
  Softmax<kIsBounded> softmax(args);
  const auto weigh = [&](int tile) {
    const int key = tile * kN;
    if (seen(query, kGroupRows, key, kN, args.window) != Seen::kAll) {
      for_each(s, [&](float& x, int row, int column, int) {
        if (!is_visible(query + row, key + column, args.window)) x = -INFINITY;
      });
    }
    softmax.weigh(s, factor);
  };

  RingPlace<Tile::kStages> at, last;  // of the keys at hand, and of the values of the tile before
  cuda::mbarrier_wait(&barriers.q, 0);
  cuda::mbarrier_wait(&barriers.k[0].full, 0);
  cuda::wgmma_fence(s);
  scores(s, q, shared.k(0));
  cuda::wgmma_commit();
  if (is_last && count > 1) cuda::named_barrier_arrive(next_turn, kTurn);
  cuda::wgmma_wait<0>(s);
  barriers.k[0].release();
  weigh(keys.end - 1);
  pack<kN>(s, p);

  for (int i = 1; i < count; ++i) {
    at.advance();
    cuda::mbarrier_wait(&barriers.k[at.stage].full, at.phase);
    cuda::named_barrier_sync(my_turn, kTurn);
    cuda::wgmma_fence(s);
    scores(s, q, shared.k(at.stage));
    cuda::wgmma_commit();
    cuda::mbarrier_wait(&barriers.v[last.stage].full, last.phase);
    cuda::wgmma_fence(out, p);
    weighted(out, p, shared.v(last.stage), i > 1);
    cuda::wgmma_commit();
    if (!is_last || i + 1 < count) cuda::named_barrier_arrive(next_turn, kTurn);
    cuda::wgmma_wait<1>(s);
    barriers.k[at.stage].release();
    weigh(keys.end - 1 - i);
    cuda::wgmma_wait<0>(out, p);
    barriers.v[last.stage].release();
    if constexpr (!kIsBounded) {
      for_each(out, [&](float& x, int, int, int half) { x *= factor[half]; });
    }
    pack<kN>(s, p);
    last = at;
  }
  cuda::mbarrier_wait(&barriers.v[last.stage].full, last.phase);
  cuda::wgmma_fence(out, p);
  weighted(out, p, shared.v(last.stage), count > 1);
  cuda::wgmma_commit();
  softmax.finish();
  const float scale[2] = {1.0f / softmax.sum[0], 1.0f / softmax.sum[1]};
  cuda::wgmma_wait<0>(out, p);

  if (query >= args.T) return;
  for_each(out, [&](float& x, int, int, int half) { x *= scale[half]; });
  const int head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  start_store(out, q, out_map, query, head, batch, 1 + Tile::kConsumers + consumer);
  float* const lse = args.lse + (int64_t{batch} * gridDim.y + head) * args.T;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = query + accumulator_row() + 8 * half;
    if (threadIdx.x % 4 == 0 && row < args.T) lse[row] = softmax.lse(half);
  }
  cuda::tma_store_finish();
}

// Grid: tiles of queries, the longest first; H; B.
template <int kHeadDim, bool kIsBounded>
__global__ void __launch_bounds__(FwdTile<kHeadDim>::kThreads, 1)
    forward_kernel(const __grid_constant__ CUtensorMap q_map,
                   const __grid_constant__ CUtensorMap k_map,
                   const __grid_constant__ CUtensorMap v_map,
                   const __grid_constant__ CUtensorMap out_map, const FwdArgs args) {
  using Tile = FwdTile<kHeadDim>;
  const FwdShared<Tile, kHeadDim> shared{cuda::swizzle_aligned_shared()};
  if (threadIdx.x == 0) {
    auto& barriers = shared.barriers();
    cuda::mbarrier_init(&barriers.q, 1);
    for (int i = 0; i < Tile::kStages; ++i) {
      barriers.k[i].init(1, Tile::kConsumerWarps);
      barriers.v[i].init(1, Tile::kConsumerWarps);
    }
    cuda::mbarrier_init_fence();
  }
  __syncthreads();

  const int query = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Tile::kBlockM;
  const TileRange keys = key_tiles<Tile::kBlockM, Tile::kBlockN>(query, args.T, args.window);
  const int warpgroup = cuda::warpgroup_index();
  if (warpgroup == 0) {
    cuda::release_registers_to<Tile::kProducerRegisters>();
    if (threadIdx.x == 0) {
      load_forward(shared, &q_map, &k_map, &v_map, query, args.heads_per_kv, keys);
    }
  } else {
    cuda::claim_registers_to<Tile::kConsumerRegisters>();
    const int consumer = warpgroup - 1;
    attend<Tile, kHeadDim, kIsBounded>(shared, &out_map, args, consumer,
                                       query + consumer * kGroupRows, keys);
  }
}

}  // namespace nanochat::attention::hopper
