// The merge loop of BPE: from weighted pieces to merges.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "bpe/training.h"

namespace nanochat::bpe {

struct Merge {
  uint32_t left, right;  // token ids: a byte is its value, merge i is 256 + i
};

struct WeightedPiece {
  std::string_view bytes;
  int64_t count;
};

// At most `num_merges` merges; fewer when no pair is left. Deterministic: it depends on the
// multiset of pieces alone, neither on their order nor on the number of threads. `release_pieces`
// is called when their bytes are not needed any more, which is before the memory for pairs is.
[[nodiscard]] std::vector<Merge> learn_merges(
    std::vector<WeightedPiece> pieces, size_t num_merges, int num_threads, Training& training,
    const std::function<void()>& release_pieces = [] {});

}  // namespace nanochat::bpe
