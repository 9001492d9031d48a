// The backward, in three kernels whose sums have one owner each: no atomics, so the same inputs
// give the same bits, at the price of computing scores twice (7 products instead of 5).
//
//   delta   delta[i] = dout[i] . out[i]                                     memory bound
//   dk, dv  a block has a tile of keys and walks over the queries that see it, of all query heads
//           of its group:
//             s = k q^T, p = exp(s - lse)      dv += p dout
//             dp = v dout^T, ds = p (dp - delta)   dk += ds q                rows are keys
//   dq      a block has a tile of queries and walks over the keys it sees:
//             s = q k^T, dp = dout v^T, ds as above     dq += ds k           rows are queries
//
//             queries, kBlockM each                      keys, kBlockN each
//    keys    | diag | full | edge |            queries  | edge | full | diag |
//                   | diag | full | edge |                     | edge | full | diag |
//
// What passes by comes in a ring of two stages, one barrier a stage:
//   stage n arrived, stage n - 1 read by all ->  start n + 1  |  products of n
#pragma once

#include "attention/rope_norm.cuh"
#include "attention/softmax.cuh"
#include "common/cuda/vector.cuh"

namespace nanochat::attention {

struct BackwardArgs {
  Heads<const BFloat16> dout, q, k, v, out;
  Heads<BFloat16> dq, dk, dv;
  RopeNormRows rope_norm;
  const float* lse;  // (B, H, T)
  float* delta;      // (B, H, T)
  int T, H, group, window;
  float scale, scale_log2;
};

// The gradient of a score from its weight, the gradient of that weight, and delta.
[[nodiscard]] NANOCHAT_HD float score_gradient(float p, float dp, float delta) {
  return p * (dp - delta);
}

template <int kHeadDim>
struct DeltaRows {
  static constexpr int kThreads = 256;
  static constexpr int kLanes = kHeadDim / kChunk;  // of a row
  static constexpr int kRows = kThreads / kLanes;   // of a block
};

template <int kHeadDim>
__global__ void __launch_bounds__(DeltaRows<kHeadDim>::kThreads)
    delta_kernel(const BackwardArgs args) {
  using Rows = DeltaRows<kHeadDim>;
  const int row =
      static_cast<int>(blockIdx.x) * Rows::kRows + static_cast<int>(threadIdx.x) / Rows::kLanes;
  const int h = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const int chunk = static_cast<int>(threadIdx.x) % Rows::kLanes;
  float delta = 0.0f;
  if (row < args.T) {
    float dout[kChunk], out[kChunk];
    cuda::load_vector(args.dout.at(b, h) + row * args.dout.token + chunk * kChunk, dout);
    cuda::load_vector(args.out.at(b, h) + row * args.out.token + chunk * kChunk, out);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) delta = fmaf(dout[i], out[i], delta);
  }
  delta = cuda::reduce_lanes<Rows::kLanes>(delta, cuda::Sum{});
  if (row < args.T && chunk == 0) args.delta[(int64_t{b} * args.H + h) * args.T + row] = delta;
}

// Scores become weights; is_seen(place) is asked if only some are. Queries from T on, whose q,
// dout, lse and delta are 0, have weights but add nothing.
template <int kRowTiles, int kColumns, typename IsSeen, typename LseLog2>
__device__ __forceinline__ void to_weights(Sums<kRowTiles, kColumns>& s, float scale_log2,
                                           Seen part, const IsSeen& is_seen,
                                           const LseLog2& lse_log2) {
  if (part == Seen::kSome) {
    for_each(s, [&](float& score, const Place& at) {
      if (!is_seen(at)) score = kMinusInfinity;
    });
  }
  for_each(s, [&](float& score, const Place& at) {
    score = cuda::exp2_approx(fmaf(score, scale_log2, -lse_log2(at)));
  });
}

// Sums of a warp's normed rows, from row `row` on, become gradients of raw ones.
template <int kRowTiles, int kHeadDim>
__device__ __forceinline__ void to_raw(Sums<kRowTiles, kHeadDim>& sums,
                                       const Fragments<kRowTiles, kHeadDim>& normed,
                                       const BackwardArgs& args, const Rows<const float>& inv_rms,
                                       int row, int h, int b) {
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
    rope_norm_backward<kHeadDim>(
        [&](int n, int i) -> float& { return sums.at[m][n][i]; },
        [&](int k) -> const uint32_t (&)[4] { return normed.at[k][m]; }, args.rope_norm, inv_rms,
        {b, row + m * kMmaRows + lane_index() / kRowLanes, h, args.T}, args.scale);
  }
}

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksPerSm)
    dk_dv_kernel(const BackwardArgs args) {
  constexpr int kHeadDim = Tile::kHeadDim, kBlockM = Tile::kBlockM, kBlockN = Tile::kBlockN;
  constexpr int kRowTiles = Tile::kRowTiles, kWarpRows = kRowTiles * kMmaRows;
  using KeyTile = SharedTile<kBlockN, kHeadDim>;
  using QueryTile = SharedTile<kBlockM, kHeadDim>;
  constexpr int kStageBytes = 2 * QueryTile::kBytes;
  const int first_key = static_cast<int>(blockIdx.x) * kBlockN;
  const int h_kv = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const int warp_row = warp_index() * kWarpRows;
  const TileRange queries = query_tiles<kBlockM, kBlockN>(first_key, args.T, args.window);
  const int num_tiles = queries.end - queries.first, num_steps = num_tiles * args.group;

  const KeyTile k(cuda::dynamic_shared());
  const KeyTile v(cuda::dynamic_shared() + KeyTile::kBytes);
  char* const ring = cuda::dynamic_shared() + 2 * KeyTile::kBytes;
  // lse, then delta, of each stage.
  auto* const rows_of_stages = reinterpret_cast<float*>(ring + Tile::kStages * kStageBytes);
  const auto q_of = [&](int stage) { return QueryTile(ring + stage * kStageBytes); };
  const auto dout_of = [&](int stage) {
    return QueryTile(ring + stage * kStageBytes + QueryTile::kBytes);
  };
  const auto head_of = [&](int step) { return h_kv * args.group + step / num_tiles; };
  const auto query_of = [&](int step) { return (queries.first + step % num_tiles) * kBlockM; };
  const auto start = [&](int step) {
    const int h = head_of(step), stage = step % Tile::kStages;
    q_of(stage).template start_copy<Tile::kThreads>(args.q.at(b, h), args.q.token, query_of(step),
                                                    args.T);
    dout_of(stage).template start_copy<Tile::kThreads>(args.dout.at(b, h), args.dout.token,
                                                       query_of(step), args.T);
    cuda::cp_async_commit();
  };
  // lse and delta begin at no multiple of 16 bytes: a register of the first threads carries them
  // over the products of the stage before.
  constexpr int kRowValues = 2 * kBlockM;
  static_assert(kRowValues <= Tile::kThreads);
  const int value = static_cast<int>(threadIdx.x);
  const auto load_value = [&](int step) {
    if (value >= kRowValues) return 0.0f;
    const int query = query_of(step) + value % kBlockM;
    if (query >= args.T) return 0.0f;
    const int64_t i = (int64_t{b} * args.H + head_of(step)) * args.T + query;
    return value < kBlockM ? args.lse[i] * static_cast<float>(kLog2E) : args.delta[i];
  };
  const auto store_value = [&](int step, float x) {
    if (value < kRowValues) rows_of_stages[step % Tile::kStages * kRowValues + value] = x;
  };

  k.template start_copy<Tile::kThreads>(args.k.at(b, h_kv), args.k.token, first_key, args.T);
  v.template start_copy<Tile::kThreads>(args.v.at(b, h_kv), args.v.token, first_key, args.T);
  start(0);
  store_value(0, load_value(0));
  Sums<kRowTiles, kHeadDim> dk, dv;

  for (int step = 0; step < num_steps; ++step) {
    cuda::cp_async_wait<0>();
    __syncthreads();
    const bool has_next = step + 1 < num_steps;
    float next_value = 0.0f;
    if (has_next) {
      start(step + 1);
      next_value = load_value(step + 1);
    }
    const int query = query_of(step), stage = step % Tile::kStages;
    const Seen part = seen(query, kBlockM, first_key + warp_row, kWarpRows, args.window);
    if (part != Seen::kNone) {
      const float* lse_log2 = rows_of_stages + stage * kRowValues;
      const float* delta = lse_log2 + kBlockM;
      Sums<kRowTiles, kBlockM> p, ds;
      scores(p, k, warp_row, q_of(stage));
      to_weights(
          p, args.scale_log2, part,
          [&](const Place& at) {
            return is_visible(query + at.column(), first_key + warp_row + at.row(), args.window);
          },
          [&](const Place& at) { return lse_log2[at.column()]; });
      weighted(dv, p, dout_of(stage));
      scores(ds, v, warp_row, dout_of(stage));
      for_each(ds, [&](float& dp, const Place& at) {
        dp = score_gradient(p.at[at.m][at.n][at.i], dp, delta[at.column()]);
      });
      weighted(dk, ds, q_of(stage));
    }
    if (has_next) store_value(step + 1, next_value);
  }

  v.store(dv, warp_row, args.dv.at(b, h_kv), args.dv.token, first_key, args.T);
  to_raw(dk, load_fragments<kRowTiles>(k, warp_row), args, args.rope_norm.k_inv_rms,
         first_key + warp_row, h_kv, b);
  k.store(dk, warp_row, args.dk.at(b, h_kv), args.dk.token, first_key, args.T);
}

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksPerSm)
    dq_kernel(const BackwardArgs args) {
  constexpr int kHeadDim = Tile::kHeadDim, kBlockM = Tile::kBlockM, kBlockN = Tile::kBlockN;
  constexpr int kRowTiles = Tile::kRowTiles, kWarpRows = kRowTiles * kMmaRows;
  using QueryTile = SharedTile<kBlockM, kHeadDim>;
  using KeyTile = SharedTile<kBlockN, kHeadDim>;
  constexpr int kStageBytes = 2 * KeyTile::kBytes;
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int h = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const int first_query = tile * kBlockM, warp_row = warp_index() * kWarpRows;
  const TileRange keys = key_tiles<kBlockM, kBlockN>(first_query, args.T, args.window);

  const QueryTile q(cuda::dynamic_shared());
  const QueryTile dout(cuda::dynamic_shared() + QueryTile::kBytes);
  char* const ring = cuda::dynamic_shared() + 2 * QueryTile::kBytes;
  const auto k_of = [&](int j) { return KeyTile(ring + j % Tile::kStages * kStageBytes); };
  const auto v_of = [&](int j) {
    return KeyTile(ring + j % Tile::kStages * kStageBytes + KeyTile::kBytes);
  };
  const BFloat16* k_rows = args.k.at(b, h / args.group);
  const BFloat16* v_rows = args.v.at(b, h / args.group);
  const auto start = [&](int j) {
    k_of(j).template start_copy<Tile::kThreads>(k_rows, args.k.token, j * kBlockN, args.T);
    v_of(j).template start_copy<Tile::kThreads>(v_rows, args.v.token, j * kBlockN, args.T);
    cuda::cp_async_commit();
  };

  q.template start_copy<Tile::kThreads>(args.q.at(b, h), args.q.token, first_query, args.T);
  dout.template start_copy<Tile::kThreads>(args.dout.at(b, h), args.dout.token, first_query,
                                           args.T);
  start(keys.first);
  RowValues<kRowTiles> lse_log2, delta;
  for_each_row<kRowTiles>([&](int m, int half) {
    const int row = first_query + warp_row + m * kMmaRows + lane_index() / kRowLanes + half * 8;
    const int64_t i = (int64_t{b} * args.H + h) * args.T + row;
    const bool is_inside = row < args.T;
    lse_log2[m][half] = is_inside ? args.lse[i] * static_cast<float>(kLog2E) : 0.0f;
    delta[m][half] = is_inside ? args.delta[i] : 0.0f;
  });
  cuda::cp_async_wait<0>();
  __syncthreads();
  const auto q_rows = load_fragments<kRowTiles>(q, warp_row);
  const auto dout_rows = load_fragments<kRowTiles>(dout, warp_row);
  Sums<kRowTiles, kHeadDim> dq;

  for (int j = keys.first; j < keys.end; ++j) {
    cuda::cp_async_wait<0>();
    __syncthreads();
    if (j + 1 < keys.end) start(j + 1);
    const Seen part = seen(first_query + warp_row, kWarpRows, j * kBlockN, kBlockN, args.window);
    if (part == Seen::kNone) continue;
    Sums<kRowTiles, kBlockN> p, ds;
    scores(p, q_rows, k_of(j));
    to_weights(
        p, args.scale_log2, part,
        [&](const Place& at) {
          return is_visible(first_query + warp_row + at.row(), j * kBlockN + at.column(),
                            args.window);
        },
        [&](const Place& at) { return lse_log2[at.m][at.half()]; });
    scores(ds, dout_rows, v_of(j));
    for_each(ds, [&](float& dp, const Place& at) {
      dp = score_gradient(p.at[at.m][at.n][at.i], dp, delta[at.m][at.half()]);
    });
    weighted(dq, ds, k_of(j));
  }

  to_raw(dq, q_rows, args, args.rope_norm.q_inv_rms, first_query + warp_row, h, b);
  q.store(dq, warp_row, args.dq.at(b, h), args.dq.token, first_query, args.T);
}

}  // namespace nanochat::attention
