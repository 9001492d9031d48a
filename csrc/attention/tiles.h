// The sizes of the portable kernels (sm_80 and later, mma.sync), and why they are what they are.
//
// Registers decide. A thread has 255; the sums of a warp and the scores that it holds at one time
// take 192 of them in the largest kernel, the rest is fragments and addresses. With 4 warps a block
// two blocks share a multiprocessor, so that one multiplies while the other waits or exponentiates.
// Shared memory allows two blocks on an A100 (164 KB) and all later data centre chips, and one of
// head_dim 128 on chips with 100 KB (sm_86, sm_89, sm_120).
//
// A fragment of the second operand serves all the rows that a warp has: with 32 rows shared memory
// is read at 3/4 of its rate at most while the tensor cores are full, with 16 rows at all of it.
#pragma once

#include "common/dtype.h"

namespace nanochat::attention {

inline constexpr int kMmaRows = 16, kMmaColumns = 8, kMmaDepth = 16;
inline constexpr int kMaxSmemBytesSm86 = 99 << 10;  // the least of sm_80 and later

// Rows of a shared tile are cut into chunks of 16 bytes, what one lane copies and one row of an
// ldmatrix is. Chunk c of row r lies at c ^ (r % 8), so that 8 rows of one chunk, as well as 8
// chunks of one row, are in 8 different groups of 4 banks.
inline constexpr int kChunk = 8;  // elements

[[nodiscard]] NANOCHAT_HD constexpr int swizzled(int row, int chunk) {
  return chunk ^ (row & 7);
}
static_assert(
    [] {
      for (int i = 0; i < 8; ++i) {
        unsigned of_chunk = 0, of_row = 0;
        for (int j = 0; j < 8; ++j) {
          of_chunk |= 1u << swizzled(j, i) % 8;
          of_row |= 1u << swizzled(i, j) % 8;
        }
        if (of_chunk != 0xff || of_row != 0xff) return false;
      }
      return true;
    }(),
    "two chunks that are read or written at once share banks");

struct Warps4 {
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocksPerSm = 2;
};

// Queries in rows. The query tile stays; keys and values have one place each: values arrive under
// the first product, the next keys under the softmax and the second.
template <int kHeadDim_>
struct FwdTile : Warps4 {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kRowTiles = 2;                            // of 16 rows, in a warp
  static constexpr int kBlockM = kWarps * kRowTiles * kMmaRows;  // 128 queries
  static constexpr int kBlockN = 64;                             // keys; divides usual windows
  static constexpr int kSums = kRowTiles * kHeadDim / 2;         // registers: output
  static constexpr int kScores = kRowTiles * kBlockN / 2;        // registers: scores
  static constexpr int kSmemBytes = 2 * kHeadDim * (kBlockM + 2 * kBlockN);
};

// Keys in rows, so that the transposed scores are the first operand of dv and dk without a detour;
// tiles of queries (q and dout) pass by in a ring of two.
template <int kHeadDim_>
struct DkDvTile : Warps4 {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kRowTiles = 128 / kHeadDim;               // two sums of kHeadDim each
  static constexpr int kBlockN = kWarps * kRowTiles * kMmaRows;  // 64 or 128 keys
  static constexpr int kBlockM = 32;                             // queries of a stage
  static constexpr int kStages = 2;
  static constexpr int kSums = kRowTiles * kHeadDim;   // registers: dk, dv
  static constexpr int kScores = kRowTiles * kBlockM;  // registers: p, dp
  static constexpr int kTileBytes = 2 * kHeadDim * 2 * (kBlockN + kStages * kBlockM);
  static constexpr int kSmemBytes = kTileBytes + kStages * 2 * kBlockM * 4;  // and lse, delta
};

// Queries in rows, their q and dout in registers; tiles of keys (k and v) pass by in a ring of two.
template <int kHeadDim_>
struct DqTile : Warps4 {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kRowTiles = 128 / kHeadDim;
  static constexpr int kBlockM = kWarps * kRowTiles * kMmaRows;  // 64 or 128 queries
  static constexpr int kBlockN = 32;                             // keys of a stage
  static constexpr int kStages = 2;
  static constexpr int kSums = kRowTiles * kHeadDim;   // registers: dq; q and dout
  static constexpr int kScores = kRowTiles * kBlockN;  // registers: p, dp
  static constexpr int kSmemBytes = 2 * kHeadDim * 2 * (kBlockM + kStages * kBlockN);
};

template <typename Tile>
inline constexpr bool kIsSound =
    Tile::kSums + Tile::kScores <= 192 && Tile::kSmemBytes <= kMaxSmemBytesSm86 &&
    Tile::kHeadDim % kMmaDepth == 0 && Tile::kBlockM % kMmaDepth == 0 &&
    Tile::kBlockN % kMmaDepth == 0;
static_assert(kIsSound<FwdTile<64>> && kIsSound<FwdTile<128>>);
static_assert(kIsSound<DkDvTile<64>> && kIsSound<DkDvTile<128>>);
static_assert(kIsSound<DqTile<64>> && kIsSound<DqTile<128>>);

}  // namespace nanochat::attention
