// Work on a thread of its own, while the caller stays free to notice that it is not wanted any
// more.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace nanochat {

class Background {
 public:
  // `ask_to_stop` makes running work end soon; it is called when the caller gives up.
  explicit Background(std::function<void()> ask_to_stop) : ask_to_stop_(std::move(ask_to_stop)) {}
  ~Background();
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  // The work before it must have been waited for.
  void start(std::function<void()> work);

  // Returns when the work is done, at once if there is none; rethrows what it threw. Calls `poll`
  // every 20 ms; if that throws, the work is asked to stop, and its own end no longer matters.
  void wait(const std::function<void()>& poll);

 private:
  std::function<void()> ask_to_stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_done_ = true;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace nanochat
