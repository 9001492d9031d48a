#include "common/team.h"

#include <utility>

namespace nanochat {
namespace {

// About 20 us: longer than a short step, shorter than anybody else waits for the processor.
constexpr int kSpins = 500;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when the value is not `old` any more.
void wait_while(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

Team::Team(int num_threads) : failures_(static_cast<size_t>(num_threads)) {
  threads_.reserve(failures_.size() - 1);
  try {
    for (size_t thread = 1; thread < failures_.size(); ++thread) {
      threads_.emplace_back([this, thread] { work(thread); });
    }
  } catch (...) {
    dismiss();
    throw;
  }
}

Team::~Team() {
  dismiss();
}

void Team::dismiss() noexcept {
  body_ = nullptr;
  step_.fetch_add(1, std::memory_order_release);
  step_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(const std::function<void(size_t thread)>& body) {
  body_ = &body;
  num_busy_.store(static_cast<uint32_t>(threads_.size()), std::memory_order_relaxed);
  step_.fetch_add(1, std::memory_order_release);
  step_.notify_all();
  call(0);
  for (uint32_t busy; (busy = num_busy_.load(std::memory_order_acquire)) != 0;) {
    wait_while(num_busy_, busy);
  }
  for (std::exception_ptr& failure : failures_) {
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
  }
}

void Team::work(size_t thread) noexcept {
  for (uint32_t seen = 0;;) {
    wait_while(step_, seen);
    seen = step_.load(std::memory_order_acquire);
    if (body_ == nullptr) return;
    call(thread);
    if (num_busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) num_busy_.notify_one();
  }
}

void Team::call(size_t thread) noexcept {
  try {
    (*body_)(thread);
  } catch (...) {
    failures_[thread] = std::current_exception();
  }
}

}  // namespace nanochat
