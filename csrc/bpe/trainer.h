// Trains a byte-level BPE vocabulary; the result equals rustbpe's on any input.
//
// Documents are split and counted by several threads, each with a private counter; `train` merges
// the counters and runs the merge loop. The vocabulary depends on the multiset of pieces alone:
// neither the order of the documents nor the number of threads can change it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/piece_counter.h"

namespace nanochat::bpe {

inline constexpr int64_t kMinVocabSize = 256;  // the bytes

class Trainer {
 public:
  explicit Trainer(int num_threads);

  // Counts a batch of documents. Pieces never cross documents.
  void add(std::span<const std::string_view> documents);

  // The bytes of every token in the order of ids: 256 bytes, then merges; at most `vocab_size`,
  // fewer when no pair is left. Call once: it uses the counts up. `poll` is called now and then
  // and may throw to end the training.
  [[nodiscard]] std::vector<std::string> train(int64_t vocab_size,
                                               const std::function<void()>& poll);

 private:
  void for_each_thread(const std::function<void(size_t thread)>& body) const;
  void combine_counters();

  std::vector<PieceCounter> counters_;  // one for each thread; pieces are disjoint once combined
};

}  // namespace nanochat::bpe
