// The sizes of the Hopper kernels, and why they are what they are.
//
// Registers: a multiprocessor has 65,536. A launch gives every thread the same number; setmaxnreg
// then moves those of the loading warpgroup to the ones that multiply. A thread's share of an
// accumulator of 64 x n is n / 2 registers.
#pragma once

#include <type_traits>

#include "common/cuda/sm90.cuh"

namespace nanochat::attention::hopper {

template <int kConsumers_, int kProducerRegisters_, int kConsumerRegisters_>
struct Roles {
  static constexpr int kConsumers = kConsumers_;
  static constexpr int kThreads = (kConsumers + 1) * cuda::kWarpgroup;
  static constexpr int kConsumerWarps = kConsumers * 4;
  static constexpr int kProducerRegisters = kProducerRegisters_;
  static constexpr int kConsumerRegisters = kConsumerRegisters_;
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <=
                (kConsumers + 1) * kLaunchRegisters);
};

// Queries in rows. Against 128 keys a wgmma takes 96 of the 128 bytes that shared memory gives in a
// clock (against 64 all of them), and 128 divides the usual windows. With head_dim 64 exponentials
// cost as much as both products; a third warpgroup fills the pipe that the other two leave idle.
template <int kHeadDim>
struct FwdTile : std::conditional_t<kHeadDim == 64, Roles<3, 32, 160>, Roles<2, 24, 240>> {
  static constexpr int kBlockM = kHeadDim == 64 ? 192 : 128;
  static constexpr int kBlockN = 128;
  static constexpr int kStages = 2;
  static constexpr int kTileBytes = 2 * kHeadDim * (kBlockM + 2 * kStages * kBlockN);
  static constexpr int kSums = kHeadDim / 2 + kBlockN / 2 + kBlockN / 4;  // out, scores, weights
};

// Keys in rows: the transposed scores are the first operand of dv and dk. Tiles of queries pass by.
// A tile's q is given back only under the next tile's scores, hence a stage more.
template <int kHeadDim>
struct DkDvTile : Roles<2, 24, 240> {
  static constexpr int kBlockN = 64 * kConsumers;
  static constexpr int kBlockM = 64;
  static constexpr int kStages = 3;
  static constexpr int kTileBytes = 2 * kHeadDim * 2 * (kBlockN + kStages * kBlockM);
  static constexpr int kStatBytes = kStages * 2 * kBlockM * 4;    // lse and delta
  static constexpr int kSums = kHeadDim + kBlockM + kBlockM / 4;  // dk, dv; s, dp; p packed
};

// The same, and dq: a warpgroup has half of its columns, over the keys of both. It is alive when
// the scores of its tile are not any more, so there are no more sums at a time.
template <int kHeadDim>
struct FusedTile : DkDvTile<kHeadDim> {
  using Base = DkDvTile<kHeadDim>;
  static constexpr int kDsBytes = 2 * Base::kBlockN * Base::kBlockM * 2;  // two places, bf16
  static constexpr int kDqBytes = Base::kBlockM * kHeadDim * 4;
  static constexpr int kTileBytes = Base::kTileBytes + kDsBytes + kDqBytes;
};

// Queries in rows; tiles of keys pass by.
template <int kHeadDim>
struct DqTile : Roles<2, 24, 240> {
  static constexpr int kBlockM = 64 * kConsumers;
  static constexpr int kBlockN = 128;
  static constexpr int kStages = 2;
  static constexpr int kTileBytes = 2 * kHeadDim * 2 * (kBlockM + kStages * kBlockN);
  static constexpr int kSums = kHeadDim / 2 + kBlockN;  // dq; s, dp, one of them packed in place
};

inline constexpr int kBarrierBytes = 256;

// What a launch asks for; shared memory begins anywhere, tiles at a multiple of kSwizzleBytes.
template <typename Tile>
inline constexpr int kSmemBytes = Tile::kTileBytes + kBarrierBytes + cuda::kSwizzleBytes;
template <int kHeadDim>
inline constexpr int kSmemBytes<DkDvTile<kHeadDim>> =
    DkDvTile<kHeadDim>::kTileBytes + DkDvTile<kHeadDim>::kStatBytes + kBarrierBytes +
    cuda::kSwizzleBytes;
template <int kHeadDim>
inline constexpr int kSmemBytes<FusedTile<kHeadDim>> =
    FusedTile<kHeadDim>::kTileBytes + FusedTile<kHeadDim>::kStatBytes + kBarrierBytes +
    cuda::kSwizzleBytes;

template <typename Tile>
inline constexpr bool kIsSound =
    kSmemBytes<Tile> <= cuda::kMaxSharedBytesSm90 && Tile::kSums <= Tile::kConsumerRegisters - 16;
static_assert(kIsSound<FwdTile<64>> && kIsSound<FwdTile<128>>);
static_assert(kIsSound<DkDvTile<64>> && kIsSound<DkDvTile<128>>);
static_assert(kIsSound<FusedTile<64>> && kIsSound<FusedTile<128>>);
static_assert(kIsSound<DqTile<64>> && kIsSound<DqTile<128>>);

}  // namespace nanochat::attention::hopper
