// Texts on their way from the thread that reads them to those that count them.
//
// The reader hands over batches; counters take runs of texts and go from one batch to the next
// without waiting for each other. A counter that runs dry sleeps, and waking one up can cost as
// much as a megabyte of text: so the reader stays a batch ahead.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <span>

#include "bpe/text.h"

namespace nanochat::bpe {

class TextQueue {
 public:
  // For the reader.

  // At least one text; they must stay where they are until num_finished() has gone past the batch.
  void push(std::span<const Text> texts);
  void close();  // nothing follows
  // Waits until at most `num_batches` are unfinished, or the queue is stopped; false after `time`.
  [[nodiscard]] bool wait_until_at_most(size_t num_batches, std::chrono::milliseconds time);
  // Batches from the first one on whose texts nobody reads any more.
  [[nodiscard]] size_t num_finished();
  [[nodiscard]] bool is_stopped();

  // For the counters.

  struct Run {
    std::span<const Text> texts;
    size_t first_text;  // its number since the first batch
    size_t batch;
  };

  // Texts to count, then to be reported finished; waits for them. None at the end.
  [[nodiscard]] std::optional<Run> take();
  void finish(const Run& run);

  // For all: take() returns none from now on.
  void stop();

 private:
  struct Batch {
    std::span<const Text> texts;
    size_t first_text;
    size_t num_taken = 0, num_finished = 0;
  };

  [[nodiscard]] std::optional<Run> take_locked();

  std::mutex mutex_;
  std::condition_variable has_texts_, has_room_;
  std::deque<Batch> batches_;  // the unfinished ones
  size_t num_finished_ = 0;    // batches before the front
  size_t num_texts_ = 0;
  bool is_closed_ = false, is_stopped_ = false;
};

}  // namespace nanochat::bpe
