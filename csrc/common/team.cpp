#include "common/team.h"

#include <cassert>
#include <utility>

namespace nanochat {
namespace {

// About 200 us. Steps come in bursts, with what one thread does alone between them; a thread that
// sleeps there is awake when the step it was woken for is over.
constexpr int kSpins = 5000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when the value is not `old` any more.
template <typename T>
void wait_while(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

Team::Team(int num_threads) {
  threads_.reserve(static_cast<size_t>(num_threads - 1));
  try {
    for (int thread = 1; thread < num_threads; ++thread) threads_.emplace_back([this] { work(); });
  } catch (...) {
    dismiss();
    throw;
  }
}

Team::~Team() {
  dismiss();
}

void Team::dismiss() noexcept {
  is_over_ = true;
  ticket_.fetch_add(uint64_t{1} << 2 * kTaskBits);
  ticket_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(size_t num_tasks, const std::function<void(size_t task)>& body) {
  assert(num_tasks <= kMaxTasks);
  if (num_tasks == 0) return;
  body_.store(&body, std::memory_order_relaxed);
  num_left_.store(static_cast<uint32_t>(num_tasks), std::memory_order_relaxed);
  const uint64_t step = (ticket_.load(std::memory_order_relaxed) >> 2 * kTaskBits) + 1;
  ticket_.store((step << kTaskBits | num_tasks) << kTaskBits, std::memory_order_release);
  ticket_.notify_all();
  while (take_task()) {
  }
  for (uint32_t left; (left = num_left_.load(std::memory_order_acquire)) != 0;) {
    wait_while(num_left_, left);
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void Team::work() noexcept {
  for (;;) {
    const uint64_t ticket = ticket_.load(std::memory_order_acquire);
    if (is_over_.load(std::memory_order_acquire)) return;
    if (!take_task()) wait_while(ticket_, ticket);
  }
}

bool Team::take_task() noexcept {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  uint64_t task;
  do {
    task = ticket & kMaxTasks;
    if (task >= (ticket >> kTaskBits & kMaxTasks)) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel));
  try {
    (*body_.load(std::memory_order_relaxed))(task);
  } catch (...) {
    const std::scoped_lock lock(mutex_);
    failure_ = std::current_exception();
  }
  if (num_left_.fetch_sub(1, std::memory_order_acq_rel) == 1) num_left_.notify_one();
  return true;
}

}  // namespace nanochat
