// What a training shares with the thread that watches it.
#pragma once

#include <atomic>
#include <cstdint>

namespace nanochat::bpe {

struct Stopped {};  // thrown through a training that was asked to stop

struct Training {
  std::atomic<bool> stop = false;
  std::atomic<int64_t> num_bytes = 0;   // of text, counted so far
  std::atomic<int64_t> num_merges = 0;  // found so far

  // Called at least every few milliseconds of work.
  void check() const {
    if (stop.load(std::memory_order_relaxed)) throw Stopped();
  }
};

}  // namespace nanochat::bpe
