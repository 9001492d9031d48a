#include "common/thread_pool.h"

#include <algorithm>
#include <exception>
#include <thread>
#include <vector>

namespace nanochat {

void parallel_for(int64_t n, int num_threads,
                  const std::function<void(int64_t begin, int64_t end)>& body) {
  if (n <= 0) return;
  const int64_t parts = std::clamp<int64_t>(num_threads, 1, n);
  if (parts == 1) return body(0, n);

  std::vector<std::exception_ptr> failures(static_cast<size_t>(parts));
  const auto run = [&](int64_t part) noexcept {
    try {
      body(n * part / parts, n * (part + 1) / parts);
    } catch (...) {
      failures[static_cast<size_t>(part)] = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;  // joined when the block ends, also when starting one fails
    threads.reserve(static_cast<size_t>(parts - 1));
    for (int64_t part = 1; part < parts; ++part) threads.emplace_back(run, part);
    run(0);
  }
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

}  // namespace nanochat
