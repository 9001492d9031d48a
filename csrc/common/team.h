// Threads that stay together for many short steps of one algorithm: a step costs a few microseconds
// where parallel_for, which starts its threads, costs tens.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nanochat {

class Team {
 public:
  // num_threads - 1 threads are started; the caller of run() is the other one.
  explicit Team(int num_threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  [[nodiscard]] size_t size() const { return threads_.size() + 1; }

  // Calls body(task) for every task from 0 to num_tasks - 1, at most kMaxTasks; returns when all
  // are done. The caller takes every task that nobody else has begun, so it never waits for a
  // thread to wake up. One exception is rethrown.
  void run(size_t num_tasks, const std::function<void(size_t task)>& body);

  static constexpr size_t kMaxTasks = 255;

 private:
  void work() noexcept;
  bool take_task() noexcept;
  void dismiss() noexcept;

  // From the high bits: number of the step, of its tasks, of the next one to take. All in one word,
  // so that a thread that comes late can not take a task of one step for that of another.
  static constexpr int kTaskBits = 8;
  std::atomic<uint64_t> ticket_ = 0;
  std::atomic<uint32_t> num_left_ = 0;  // tasks not done
  std::atomic<bool> is_over_ = false;
  std::atomic<const std::function<void(size_t)>*> body_ = nullptr;
  std::mutex mutex_;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

}  // namespace nanochat
