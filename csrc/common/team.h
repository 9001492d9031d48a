// Threads that stay together for many short steps of one algorithm: a step costs a few microseconds
// where parallel_for, which starts its threads, costs tens.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
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

  // Calls body(thread) for every thread from 0 to size() - 1, 0 on the caller's; returns when all
  // are done. One exception is rethrown.
  void run(const std::function<void(size_t thread)>& body);

 private:
  void dismiss() noexcept;
  void work(size_t thread) noexcept;
  void call(size_t thread) noexcept;

  const std::function<void(size_t)>* body_ = nullptr;  // null ends the threads
  std::atomic<uint32_t> step_ = 0;
  std::atomic<uint32_t> num_busy_ = 0;
  std::vector<std::exception_ptr> failures_;  // one for each thread
  std::vector<std::thread> threads_;
};

}  // namespace nanochat
