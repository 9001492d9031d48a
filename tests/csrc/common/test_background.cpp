// Whoever gives up leaves no thread behind.
#include "common/background.h"

#include <atomic>
#include <stdexcept>
#include <thread>

#include "require.h"

namespace {

using nanochat::Background;

struct GivenUp {};

// Runs until it is asked to stop.
struct Endless {
  std::atomic<bool> stop = false, is_running = false, is_over = false;

  void ask_to_stop() { stop = true; }
  void run() {
    is_running = true;
    while (!stop) std::this_thread::yield();
    is_over = true;
  }
};

void test_poll_that_throws_stops_the_work() {
  Endless work;
  Background background([&] { work.ask_to_stop(); });
  background.start([&] { work.run(); });
  bool is_given_up = false;
  try {
    background.wait([&] {
      REQUIRE(!work.is_over);
      throw GivenUp();
    });
  } catch (const GivenUp&) {
    is_given_up = true;
  }
  REQUIRE(is_given_up && work.is_over);
}

void test_end_of_life_stops_the_work() {
  Endless work;
  {
    Background background([&] { work.ask_to_stop(); });
    background.start([&] { work.run(); });
    while (!work.is_running) std::this_thread::yield();
  }
  REQUIRE(work.is_over);
}

void test_failure_arrives_once() {
  Background background([] {});
  background.wait([] {});  // nothing to wait for
  background.start([] { throw std::runtime_error("lost"); });
  bool has_failed = false;
  try {
    background.wait([] {});
  } catch (const std::runtime_error&) {
    has_failed = true;
  }
  REQUIRE(has_failed);
  background.wait([] {});
  std::atomic<bool> is_done = false;
  background.start([&] { is_done = true; });
  background.wait([] {});
  REQUIRE(is_done);
}

}  // namespace

int main() {
  test_poll_that_throws_stops_the_work();
  test_end_of_life_stops_the_work();
  test_failure_arrives_once();
}
