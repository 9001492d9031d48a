// One loop over many threads. Threads live for the length of a call (about 20 us each to start), so
// nothing is left running between calls: a fork is safe, and PyTorch's own workers meet no rival.
#pragma once

#include <cstdint>
#include <functional>

namespace nanochat {

// Cuts [0, n) into at most num_threads contiguous ranges of nearly equal length and calls
// body(begin, end) on each at once; the caller's thread takes the first. Returns when all are done.
// The first exception is rethrown.
void parallel_for(int64_t n, int num_threads,
                  const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace nanochat
