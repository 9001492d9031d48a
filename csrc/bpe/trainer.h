// Trains a byte-level BPE vocabulary; the result equals rustbpe's on any input.
//
// Texts are split and counted by several threads, each with a private counter; `train` merges the
// counters and runs the merge loop. The vocabulary depends on the multiset of pieces alone: neither
// the order of the texts nor the number of threads can change it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bpe/merge_loop.h"
#include "bpe/piece_counter.h"
#include "bpe/text.h"
#include "bpe/text_queue.h"
#include "bpe/training.h"

namespace nanochat::bpe {

inline constexpr int64_t kMinVocabSize = 256;  // the bytes

class Trainer {
 public:
  // `training` outlives the trainer.
  Trainer(Splitter splitter, int num_threads, Training& training);

  // Counts the texts of a queue until it ends. Pieces never cross texts. Throws
  // std::invalid_argument for a lone surrogate, naming the first text with one; the queue is
  // stopped then, as it is by whoever sets `stop`.
  void count(TextQueue& queue);
  // The same for texts that are all there.
  void add(std::span<const Text> texts);

  // The bytes of every token in the order of ids: 256 bytes, then merges; at most `vocab_size`,
  // fewer when no pair is left. Call once: it uses the counts up.
  [[nodiscard]] std::vector<std::string> train(int64_t vocab_size);

 private:
  void for_each_thread(const std::function<void(size_t thread)>& body) const;
  // False if it has a lone surrogate.
  [[nodiscard]] bool count_text(const Text& text, size_t thread);
  // Every distinct piece once; its bytes are in the counters.
  [[nodiscard]] std::vector<WeightedPiece> combine_counters();

  Training& training_;
  std::vector<PieceCounter> counters_;  // one for each thread
  std::vector<std::string> utf8_;       // one for each thread
};

}  // namespace nanochat::bpe
