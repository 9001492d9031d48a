// Texts reach the counters once each, batches end in order, and everybody leaves a stopped queue.
#include "bpe/text_queue.h"

#include <chrono>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "require.h"

namespace {

using nanochat::bpe::Text;
using nanochat::bpe::TextQueue;

constexpr auto kLong = std::chrono::milliseconds(60'000);

void test_every_text_is_counted_once_and_its_batch_released_after_it() {
  const std::string text = "text";
  for (const int num_counters : {1, 4}) {
    TextQueue queue;
    std::vector<int> times_seen(1000);  // plain: a text is taken by one counter only
    std::vector<std::thread> counters;
    for (int i = 0; i < num_counters; ++i) {
      counters.emplace_back([&] {
        while (const auto run = queue.take()) {
          for (size_t k = 0; k < run->texts.size(); ++k) {
            REQUIRE(run->texts[k].data == text.data());
            ++times_seen[run->first_text + k];
          }
          queue.finish(*run);
        }
      });
    }
    std::deque<std::vector<Text>> batches;
    size_t num_released = 0;
    for (int batch = 0; batch < 10; ++batch) {
      queue.push(batches.emplace_back(100, Text{text.data(), text.size()}));
      REQUIRE(queue.wait_until_at_most(1, kLong));
      for (; num_released < queue.num_finished(); ++num_released) {
        batches.front().assign(100, Text{});  // whoever still read it would see nothing
        batches.pop_front();
      }
    }
    queue.close();
    for (std::thread& counter : counters) counter.join();
    REQUIRE(queue.num_finished() == 10);
    for (const int times : times_seen) REQUIRE(times == 1);
  }
}

void test_stop_wakes_everybody() {
  TextQueue queue;
  std::thread counter([&] { REQUIRE(!queue.take()); });
  const Text text{"x", 1};
  std::thread reader([&] { REQUIRE(queue.wait_until_at_most(0, kLong)); });
  queue.stop();
  counter.join();
  reader.join();
  queue.push({&text, 1});
  REQUIRE(queue.is_stopped());
  REQUIRE(!queue.take());
}

}  // namespace

int main() {
  test_every_text_is_counted_once_and_its_batch_released_after_it();
  test_stop_wakes_everybody();
}
