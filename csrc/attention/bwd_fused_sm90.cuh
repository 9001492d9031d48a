// Backward on Hopper in 5 products: dk and dv as in bwd_sm90.cuh, and dq from the same scores. Each
// block of keys adds its share to dq in memory, in an order that no one keeps: the bits of dq
// differ from run to run.
//
//   pre     delta = dout . out, and zeros for the sum
//   fused   a block has keys, 64 to a warpgroup; tiles of queries pass by, of all heads of its
//           group
//             s = k q^T, dp = v dout^T, p and ds as in bwd_sm90.cuh
//             dv += p dout, dk += ds q      p and ds in registers
//             dq = ds^T k                   over the keys of both warpgroups, by way of shared
//                                           memory; a warpgroup has half of the columns
//             sum += dq                     by the copy engine, in fp32
//   post    dq = scale sum, back through norm and rope, rounded
//
//   tensor cores   s | dp | dv += p dout |                   | dq = ds^T k | dk += ds q    | s ..
//   other pipes         p = exp   ds     | staged | they meet |            | dq staged, sent
//
// ds has two places: who writes tile i + 1 has met the other in tile i, before which both had ended
// dq of tile i - 1.
//
// The sum has, for each tile of 64 queries and each half of the columns, what a warpgroup holds in
// the order of its registers: float4 j of thread t at 128 j + t. On the way out no two lanes meet
// in a bank, an addition is one range of memory, and post alone unravels it. Rows from T on get
// zeros.
#pragma once

#include "attention/attention.h"
#include "attention/bwd_sm90.cuh"
#include "attention/prepass_slice.cuh"

namespace nanochat::attention::hopper {

// Of a half of dq of a tile: floats.
template <int kHeadDim>
inline constexpr int kHalfTile = FusedTile<kHeadDim>::kBlockM * kHeadDim / 2;

static_assert(FusedTile<64>::kBlockM == kDqSumRows && FusedTile<128>::kBlockM == kDqSumRows);

[[nodiscard]] NANOCHAT_HD int num_query_tiles(int T) {
  return (T + kDqSumRows - 1) / kDqSumRows;
}

// ---- pre, post: a block has a tile of 64 queries.

inline constexpr int kPreThreads = 256;

// Grid: tiles of queries; H; B.
template <int kHeadDim>
__global__ void __launch_bounds__(kPreThreads)
    pre_kernel(const BwdArgs args, float* __restrict__ dq_sum) {
  const int head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  const int64_t row_of_heads = int64_t{batch} * args.H + head;
  const int row = static_cast<int>(blockIdx.x) * kDqSumRows + static_cast<int>(threadIdx.x) / 4;
  const bool is_inside = row < args.T;
  const int safe_row = is_inside ? row : 0;
  const float delta =
      row_delta<kHeadDim>(args.dout.at(batch, safe_row, head), args.out.at(batch, safe_row, head));
  if (is_inside && threadIdx.x % 4 == 0) args.delta[row_of_heads * args.T + row] = delta;
  float* const sum = dq_sum + (row_of_heads * gridDim.x + blockIdx.x) * 2 * kHalfTile<kHeadDim>;
  constexpr float kZeros[4] = {};
#pragma unroll
  for (int i = 0; i < 2 * kHalfTile<kHeadDim>; i += 4 * kPreThreads) {
    cuda::store_vector(sum + i + 4 * threadIdx.x, kZeros);
  }
}

// Lanes of the pre-pass (prepass_slice.cuh), each for two rows that are 8 apart.
template <int kHeadDim>
struct PostThreads {
  using Group = RowGroup<BFloat16, kHeadDim>;
  static constexpr int kThreads = kDqSumRows / 2 * Group::kLanes;
};

// Grid as that of pre. A thread's 8 columns of two rows are the float4 of four lanes; their
// partners are in the other half of the columns.
template <int kHeadDim>
__global__ void __launch_bounds__(PostThreads<kHeadDim>::kThreads)
    post_kernel(const float* __restrict__ dq_sum, const BwdArgs args, const Rows<const BFloat16> q,
                const Rows<BFloat16> dq) {
  using Group = typename PostThreads<kHeadDim>::Group;
  static_assert(Group::kElements == 8);
  const int head = static_cast<int>(blockIdx.y), batch = static_cast<int>(blockIdx.z);
  const int column = static_cast<int>(threadIdx.x) % Group::kLanes * Group::kElements;
  const int pair = static_cast<int>(threadIdx.x) / Group::kLanes;  // 8 w + g: rows 16 w + g, + 8
  const float* const sum =
      dq_sum +
      ((int64_t{batch} * args.H + head) * gridDim.x + blockIdx.x) * 2 * kHalfTile<kHeadDim> +
      (column / 8 * cuda::kWarpgroup + pair * 4) * 4;
  Slice<Group> dy[2];
#pragma unroll
  for (int lane = 0; lane < 4; ++lane) {
    float first[4], second[4];
    cuda::load_vector(sum + lane * 4, first);
    cuda::load_vector(sum + kHalfTile<kHeadDim> + lane * 4, second);
#pragma unroll
    for (int i = 0; i < 4; ++i) dy[i / 2].pairs[2 * lane + i % 2] = {first[i], second[i]};
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = static_cast<int>(blockIdx.x) * kDqSumRows + pair / 8 * 16 + pair % 8 + 8 * half;
    const bool is_inside = row < args.T;
    const RopeNormRows& norm = args.rope_norm;
    Slice<Group> y;
    if (is_inside) y.read(q.at(batch, row, head), column);
    const float projection = norm.projection_factor * dot(y, dy[half]);
    if (!is_inside) continue;
    const Angles<Group> angles(norm.cos.at(batch, row, 0), norm.sin.at(batch, row, 0), column);
    rope_norm_backward(dy[half], y, angles, projection,
                       args.scale * norm.qk_scale * *norm.q_inv_rms.at(batch, row, head));
    dy[half].write(dq.at(batch, row, head), column);
  }
}

// ---- fused

// In front of what dk_dv_kernel has: two places of ds, rows being keys, and dq in fp32.
template <int kHeadDim>
struct FusedShared {
  using Tile = FusedTile<kHeadDim>;
  using Ds = GroupTile<Tile::kBlockM>;  // of the keys of a warpgroup

  uint8_t* base;

  __device__ __forceinline__ Ds ds(int place, int consumer) const {
    return {base + (place * Tile::kConsumers + consumer) * Ds::kBytes};
  }
  __device__ __forceinline__ float* dq(int consumer) const {
    return reinterpret_cast<float*>(base + Tile::kDsBytes) + consumer * kHalfTile<kHeadDim>;
  }
  __device__ __forceinline__ BwdShared<Tile, Tile::kBlockM, kHeadDim> rest() const {
    return {base + Tile::kDsBytes + Tile::kDqBytes};
  }
};

// Rows of ds, keys, to shared memory.
template <int kM>
__device__ __forceinline__ void store_ds(const uint32_t (&ds)[kM / kDepth][4],
                                         const GroupTile<kM>& to) {
#pragma unroll
  for (int k = 0; k < kM / kDepth; ++k) cuda::stmatrix_x4(row_chunk(to, k), ds[k]);
}

// c (queries, D / 2) (+)= ds^T k of 64 keys, `column` being the first of k.
template <int kHeadDim, int kM>
__device__ __forceinline__ void add_dq(float (&c)[kHeadDim / 4], const GroupTile<kM>& ds,
                                       const GroupTile<kHeadDim>& k, int column, bool accumulate) {
  const uint32_t ds_address = cuda::shared_address(ds.data);
  const uint32_t k_address = cuda::shared_address(k.data) +
                             column / cuda::kPanelColumns * k.kPanelBytes +
                             column % cuda::kPanelColumns * 2;
#pragma unroll
  for (int i = 0; i < kGroupRows / kDepth; ++i) {
    cuda::wgmma<kHeadDim / 2, cuda::Major::kMN, cuda::Major::kMN>(
        c, cuda::mn_major_descriptor(ds_address, i * kDepth, ds.kPanelBytes),
        cuda::mn_major_descriptor(k_address, i * kDepth, k.kPanelBytes), accumulate || i > 0);
  }
}

// Starts the addition of c to `sum`. `barrier` is of this warpgroup.
template <int kHeadDim>
__device__ __forceinline__ void start_add(const float (&c)[kHeadDim / 4], float* staged, float* sum,
                                          int barrier) {
  const int thread = static_cast<int>(threadIdx.x) % cuda::kWarpgroup;
  if (thread == 0) cuda::tma_store_wait_read();
  cuda::named_barrier_sync(barrier, cuda::kWarpgroup);  // the addition before has read its own
#pragma unroll
  for (int j = 0; j < kHeadDim / 16; ++j) {
    cuda::store_staged(staged + (j * cuda::kWarpgroup + thread) * 4, c[4 * j], c[4 * j + 1],
                       c[4 * j + 2], c[4 * j + 3]);
  }
  cuda::fence_async_proxy();
  cuda::named_barrier_sync(barrier, cuda::kWarpgroup);
  if (thread == 0) {
    cuda::bulk_add(sum, staged, kHalfTile<kHeadDim> * static_cast<int>(sizeof(float)));
    cuda::tma_store_commit();
  }
}

template <int kHeadDim>
__device__ __forceinline__ void sum_all(const FusedShared<kHeadDim>& fused,
                                        const CUtensorMap* dk_map, const CUtensorMap* dv_map,
                                        const BwdArgs& args, float* dq_sum, int consumer,
                                        int block_key, int kv_head, int batch,
                                        const TileRange& queries) {
  using Tile = FusedTile<kHeadDim>;
  constexpr int kM = Tile::kBlockM, kHalf = kHeadDim / 2;
  constexpr int kBoth = 1 + Tile::kConsumers;  // barrier of all consumers; theirs are before it
  const auto shared = fused.rest();
  auto& barriers = shared.barriers();
  const GroupTile<kHeadDim> k = shared.own_first(consumer), v = shared.own_second(consumer);
  const int key = block_key + consumer * kGroupRows;
  float s[kM / 2], dp[kM / 2], dk[kHeadDim / 2], dv[kHeadDim / 2], dq[kHeadDim / 4];
  uint32_t p[kM / kDepth][4], ds[kM / kDepth][4];
  bool accumulate = false;
  int place = 0;     // of ds
  int pending = -1;  // stage of the tile before, whose dk may be under way
  const auto give_back_pending = [&] {
    if (pending >= 0) barriers.first[pending].release();
    pending = -1;
  };
  // After this warpgroup has stored its ds.
  const auto start_dq = [&] {
    cuda::fence_async_proxy();
    cuda::named_barrier_sync(kBoth, Tile::kConsumers * cuda::kWarpgroup);
    cuda::wgmma_fence(dq);
#pragma unroll
    for (int i = 0; i < Tile::kConsumers; ++i) {
      add_dq<kHeadDim, kM>(dq, fused.ds(place, i), shared.own_first(i), consumer * kHalf, i > 0);
    }
    cuda::wgmma_commit();
    place ^= 1;
  };
  cuda::mbarrier_wait(&barriers.own, 0);
  for_each_stage<Tile>(queries, args.heads_per_kv, [&](const auto& at, int i, int tile) {
    const int query = tile * kM;
    const Seen part = seen(query, kM, key, kGroupRows, args.window);
    const auto start_adding = [&] {
      const int64_t head = int64_t{batch} * args.H + kv_head * args.heads_per_kv + i;
      float* const sum =
          dq_sum + ((head * num_query_tiles(args.T) + tile) * 2 + consumer) * kHalfTile<kHeadDim>;
      start_add<kHeadDim>(dq, fused.dq(consumer), sum, 1 + consumer);
    };
    cuda::mbarrier_wait(&barriers.first[at.stage].full, at.phase);
    if (part == Seen::kNone) {  // a tile that only the other warpgroup's keys want
      cuda::wgmma_wait<0>(dk, ds);
      give_back_pending();
      cuda::mbarrier_wait(&barriers.second[at.stage].full, at.phase);
      barriers.first[at.stage].release();
      barriers.second[at.stage].release();
      constexpr uint32_t kZeros[kM / kDepth][4] = {};
      store_ds<kM>(kZeros, fused.ds(place, consumer));
      start_dq();
      cuda::wgmma_wait<0>(dq);
      start_adding();
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
    store_ds<kM>(ds, fused.ds(place, consumer));
    start_dq();
    cuda::wgmma_fence(dk, ds);
    weighted(dk, ds, shared.first(at.stage), accumulate);
    cuda::wgmma_commit();
    cuda::wgmma_wait<1>(dv, p, dq);
    barriers.second[at.stage].release();
    start_adding();  // under dk
    accumulate = true;
    pending = at.stage;
  });
  cuda::wgmma_wait<0>(dk, ds);
  if (key < args.T) {
    start_store(dv, v, dv_map, key, kv_head, batch, 1 + consumer);
    to_raw<kHeadDim>(dk, k, args, args.rope_norm.k_inv_rms, key, kv_head, batch);
  }
  // dk leaves through the place of k, which the other warpgroup read for its dq.
  cuda::named_barrier_sync(kBoth, Tile::kConsumers * cuda::kWarpgroup);
  if (key < args.T) start_store(dk, k, dk_map, key, kv_head, batch, 1 + consumer);
  cuda::tma_store_finish();
}

// Grid: tiles of keys, the longest first; Hkv; B. After pre_kernel.
template <int kHeadDim>
__global__ void __launch_bounds__(FusedTile<kHeadDim>::kThreads, 1)
    fused_kernel(const __grid_constant__ CUtensorMap q_map,
                 const __grid_constant__ CUtensorMap k_map,
                 const __grid_constant__ CUtensorMap v_map,
                 const __grid_constant__ CUtensorMap dout_map,
                 const __grid_constant__ CUtensorMap dk_map,
                 const __grid_constant__ CUtensorMap dv_map, const BwdArgs args, float* dq_sum) {
  using Tile = FusedTile<kHeadDim>;
  const FusedShared<kHeadDim> fused{cuda::swizzle_aligned_shared()};
  const auto shared = fused.rest();
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
    sum_all(fused, &dk_map, &dv_map, args, dq_sum, warpgroup - 1, key, kv_head, batch, queries);
  }
}

}  // namespace nanochat::attention::hopper
