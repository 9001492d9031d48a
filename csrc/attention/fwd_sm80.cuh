// The forward: a block has 128 queries of one head and walks over the keys they see, from the
// right.
//
//             keys, kBlockN each                        a warp has 32 of the queries; out (32 x D)
//            | edge | full | full | diag |              and the scores (32 x kBlockN) are its
//   queries         | edge | full | full | diag |       registers
//
//   K(j) arrived ->  start V(j)  | s = q K(j)^T
//   V(j) arrived ->  start K(j-1)| p = softmax(s) | out += p V(j)        two barriers a tile
//
// Heads that share keys and values are neighbours in the grid, so that these are read from L2, and
// the query tiles with most keys start first.
#pragma once

#include "attention/softmax.cuh"

namespace nanochat::attention {

struct ForwardArgs {
  Heads<const BFloat16> q, k, v;
  Heads<BFloat16> out;
  float* lse;  // (B, H, T)
  int T, H, group, window;
  float scale_log2, bound_log2;
};

template <typename Tile, template <int> typename Softmax>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksPerSm)
    forward_kernel(const ForwardArgs args) {
  constexpr int kHeadDim = Tile::kHeadDim, kBlockM = Tile::kBlockM, kBlockN = Tile::kBlockN;
  constexpr int kRowTiles = Tile::kRowTiles, kWarpRows = kRowTiles * kMmaRows;
  // The first tile that a warp looks at then holds the last key of each of its rows, so that no row
  // below T starts with nothing but masked scores.
  static_assert(kBlockN % kWarpRows == 0);
  using QueryTile = SharedTile<kBlockM, kHeadDim>;
  using KeyTile = SharedTile<kBlockN, kHeadDim>;
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const int h = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const int first_query = tile * kBlockM, warp_row = warp_index() * kWarpRows;
  const TileRange keys = key_tiles<kBlockM, kBlockN>(first_query, args.T, args.window);

  const QueryTile q(cuda::dynamic_shared());
  const KeyTile k(cuda::dynamic_shared() + QueryTile::kBytes);
  const KeyTile v(cuda::dynamic_shared() + QueryTile::kBytes + KeyTile::kBytes);
  const int h_kv = h / args.group;
  const auto start = [&](const KeyTile& to, const Heads<const BFloat16>& from, int j) {
    to.template start_copy<Tile::kThreads>(from.at(cuda::opaque(b), cuda::opaque(h_kv)), from.token,
                                           j * kBlockN, args.T);
    cuda::cp_async_commit();
  };

  q.template start_copy<Tile::kThreads>(args.q.at(b, h), args.q.token, first_query, args.T);
  start(k, args.k, keys.end - 1);
  Sums<kRowTiles, kHeadDim> out;
  Softmax<kRowTiles> softmax(args.scale_log2, args.bound_log2);

  for (int j = keys.end - 1; j >= keys.first; --j) {
    cuda::cp_async_wait<0>();
    __syncthreads();  // K(j) is here, and nobody reads V(j + 1) any more
    start(v, args.v, j);
    const Seen part = seen(first_query + warp_row, kWarpRows, j * kBlockN, kBlockN, args.window);
    Sums<kRowTiles, kBlockN> s;
    if (part != Seen::kNone) scores(s, q, warp_row, k);
    cuda::cp_async_wait<0>();
    __syncthreads();  // V(j) is here, and nobody reads K(j) any more
    if (j > keys.first) start(k, args.k, j - 1);
    if (part == Seen::kNone) continue;
    if (part == Seen::kSome) {
      for_each(s, [&](float& score, const Place& at) {
        const int query = first_query + warp_row + at.row(), key = j * kBlockN + at.column();
        if (!is_visible(query, key, args.window)) score = kMinusInfinity;
      });
    }
    softmax.add(s, out);
    weighted(out, s, v);
  }

  RowValues<kRowTiles> lse, scale;
  softmax.finish(lse, scale);
  if (lane_index() % kRowLanes == 0) {
    float* lse_rows = args.lse + (int64_t{b} * args.H + h) * args.T;
    for_each_row<kRowTiles>([&](int m, int half) {
      const int row = first_query + warp_row + m * kMmaRows + lane_index() / kRowLanes + half * 8;
      if (row < args.T) lse_rows[row] = lse[m][half];
    });
  }
  for_each_row<kRowTiles>(
      [&](int m, int half) { for_row(out, m, half, [&](float& x) { x *= scale[m][half]; }); });
  q.store(out, warp_row, args.out.at(b, h), args.out.token, first_query, args.T);
}

}  // namespace nanochat::attention
