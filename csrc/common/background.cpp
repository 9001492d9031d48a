#include "common/background.h"

#include <chrono>
#include <utility>

namespace nanochat {
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(20);

}  // namespace

Background::~Background() {
  if (!thread_.joinable()) return;
  ask_to_stop_();
  thread_.join();
}

void Background::start(std::function<void()> work) {
  is_done_ = false;
  thread_ = std::thread([this, work = std::move(work)]() noexcept {
    std::exception_ptr failure;
    try {
      work();
    } catch (...) {
      failure = std::current_exception();
    }
    const std::scoped_lock lock(mutex_);
    failure_ = failure;
    is_done_ = true;
    changed_.notify_one();
  });
}

void Background::wait(const std::function<void()>& poll) {
  if (!thread_.joinable()) return;
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kPollInterval, [this] { return is_done_; })) {
    lock.unlock();
    try {
      poll();
    } catch (...) {
      ask_to_stop_();
      thread_.join();
      throw;
    }
    lock.lock();
  }
  lock.unlock();
  thread_.join();
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

}  // namespace nanochat
