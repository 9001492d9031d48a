// Where things lie in device memory, as plain index arithmetic: the kernels and the tests on the
// host share it.
//
// A matrix multiplication is W (rows, channels) times activations (channels, tokens): the weights
// are the 16-row side of mma.m16n8k16, tokens its 8 columns. README.md draws the fragment order.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "engine/model.h"

namespace nanochat::engine::cuda {

inline constexpr int kTokenTile = 64;      // tokens that a kernel multiplies at once, at most
inline constexpr int kMmaRows = 16;        // of the weights, in one mma
inline constexpr int kMmaTokens = 8;       // in one mma
inline constexpr int kBlockChannels = 32;  // two steps of an mma: 16 bytes of a token to a lane
inline constexpr int kBlockVectors = 64;   // 16-byte vectors of a block: 16 rows, 32 channels
inline constexpr int kRowPadding = 32;     // rows of a packed matrix are a multiple of this

// Of the weight (row, channel) in a packed matrix of `channels`, a multiple of 32.
NANOCHAT_HD int64_t packed_index(int64_t row, int channel, int channels) {
  const int64_t block = row / kMmaRows * (channels / kBlockChannels) + channel / kBlockChannels;
  const int r = static_cast<int>(row % kMmaRows), c = channel % kBlockChannels;
  const int lane = r % 8 * 4 + c / 8;
  const int step = c % 8 / 4, half = c % 4 / 2;
  return ((block * 2 + step) * 32 + lane) * 8 + half * 4 + r / 8 * 2 + c % 2;
}

// Of (token, channel) in activations: tiles of 64 tokens, then blocks of 32 channels, so that the
// fragments of 8 tokens are 512 bytes in a row.
NANOCHAT_HD int64_t activation_index(int64_t token, int channel, int channels) {
  const int64_t block = token / kTokenTile * (channels / kBlockChannels) + channel / kBlockChannels;
  return (block * kTokenTile + token % kTokenTile) * kBlockChannels + channel % kBlockChannels;
}

// Of a token's sum of squares over channels 16 slot .. 16 slot + 15.
NANOCHAT_HD int64_t squares_index(int64_t token, int slot, int channels) {
  const int slots = channels / kMmaRows;
  return (token / kTokenTile * slots + slot) * kTokenTile + token % kTokenTile;
}

// A page holds kPageTokens tokens of every layer: layer, keys then values, head, token, element.
struct KvLayout {
  int n_layer, n_kv_head, head_dim;

  [[nodiscard]] NANOCHAT_HD int64_t page_elements() const {
    return int64_t{n_layer} * 2 * n_kv_head * kPageTokens * head_dim;
  }

  // Of the keys (is_value 0) or values (1) of one head in one layer: kPageTokens x head_dim.
  [[nodiscard]] NANOCHAT_HD int64_t offset(int64_t page, int layer, int is_value, int head) const {
    return page * page_elements() +
           ((int64_t{layer} * 2 + is_value) * n_kv_head + head) * kPageTokens * head_dim;
  }
};

// Attention sums over keys in splits of fixed length, counted from key 0: which keys meet in a
// partial sum depends on the position of the query and the window alone.
inline constexpr int kSplitKeys = 256;
inline constexpr int kSplitPages = kSplitKeys / kPageTokens;
static_assert(kSplitKeys % kPageTokens == 0);

struct Splits {
  int first_key;    // visible: first_key to the query's own position
  int first_split;  // the split with first_key
  int count;
};

NANOCHAT_HD Splits splits_of(int position, int window) {
  const int first_key = window < 0 || window > position ? 0 : position - window;
  const int first_split = first_key / kSplitKeys;
  return {first_key, first_split, position / kSplitKeys - first_split + 1};
}

// Of any position below seq_len.
NANOCHAT_HD int max_splits(int seq_len, int window) {
  const int all = (seq_len + kSplitKeys - 1) / kSplitKeys;
  if (window < 0) return all;
  const int seen = (window + kSplitKeys - 1) / kSplitKeys + 1;
  return seen < all ? seen : all;
}

NANOCHAT_HD int round_up(int n, int step) {
  return (n + step - 1) / step * step;
}

// Columns of 8 tokens that serve `num_tokens`: 1, 2, 4 or 8, whole tiles of 64 above.
NANOCHAT_HD int mma_columns(int num_tokens) {
  int columns = 1;
  while (columns * kMmaTokens < num_tokens && columns < kTokenTile / kMmaTokens) columns *= 2;
  return columns;
}

}  // namespace nanochat::engine::cuda
