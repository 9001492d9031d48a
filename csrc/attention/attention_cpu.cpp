// Threads and scratch around the loops of cpu/. A task does the same arithmetic whoever takes it,
// so the bits do not depend on the number of threads.
#include <algorithm>
#include <memory>

#include "attention/attention.h"
#include "attention/cpu/kernels.h"
#include "common/thread_pool.h"

namespace nanochat::attention {
namespace {

// Calls loops(begin, end, scratch) for ranges of tasks, on as many threads as the work is worth.
template <typename Loops>
void for_each_range(int64_t num_tasks, int64_t multiplications, const Placement& where,
                    int64_t scratch_bytes, const Loops& loops) {
  // Starting a thread costs about 20 us, the time of this many multiplications.
  constexpr int64_t kMinPerThread = 1 << 21;
  constexpr int64_t kLine = 64;
  const int64_t worth = std::max<int64_t>(1, multiplications / kMinPerThread);
  parallel_for(num_tasks, static_cast<int>(std::min<int64_t>(where.num_threads, worth)),
               [&](int64_t begin, int64_t end) {
                 const auto room = static_cast<size_t>(scratch_bytes + kLine);
                 const auto scratch = std::make_unique_for_overwrite<char[]>(room);
                 void* start = scratch.get();
                 size_t space = room;
                 std::align(kLine, static_cast<size_t>(scratch_bytes), start, space);
                 loops(begin, end, static_cast<char*>(start));
               });
}

// Of one product of queries and keys.
int64_t multiplications(const TensorView& q, int64_t window) {
  return q.sizes[0] * q.sizes[1] * q.sizes[2] * q.sizes[3] * (std::min(window, q.sizes[1]) + 1);
}

}  // namespace

void forward_cpu(const Forward& p, const Placement& where) {
  const Kernels& loops = kernels(where.cpu_level, p.q.dtype);
  const int64_t T = p.q.sizes[1], D = p.q.sizes[3];
  const int64_t blocks = (T + kQueriesPerTask - 1) / kQueriesPerTask;
  for_each_range(p.q.sizes[0] * p.q.sizes[2] * blocks, 2 * multiplications(p.q, p.window), where,
                 loops.forward_scratch(T, D), [&](int64_t begin, int64_t end, char* scratch) {
                   loops.forward(p, begin, end, scratch);
                 });
}

void backward_cpu(const Backward& p, const Placement& where) {
  const Kernels& loops = kernels(where.cpu_level, p.q.dtype);
  for_each_range(
      p.k.sizes[0] * p.k.sizes[2], 5 * multiplications(p.q, p.window), where,
      loops.backward_scratch(p.q.sizes[1], p.q.sizes[3]),
      [&](int64_t begin, int64_t end, char* scratch) { loops.backward(p, begin, end, scratch); });
}

}  // namespace nanochat::attention
