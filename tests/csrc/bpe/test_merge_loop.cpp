// Counts beyond those of any corpus, and the end of a loop that is asked to stop.
#include "bpe/merge_loop.h"

#include <cstdint>
#include <vector>

#include "require.h"

namespace {

using namespace nanochat::bpe;

void test_counts_are_64_bit() {
  constexpr int64_t kMany = int64_t{1} << 40;
  Training training;
  const auto merges = learn_merges({{"ab", kMany}, {"cd", kMany + 1}, {"ef", 3}}, 3, 1, training);
  REQUIRE(merges.size() == 3);
  REQUIRE(merges[0].left == 'c' && merges[1].left == 'a' && merges[2].left == 'e');
}

void test_stop_ends_the_loop() {
  Training training;
  training.stop = true;
  bool is_stopped = false;
  try {
    static_cast<void>(learn_merges({{"ab", 2}}, 1, 1, training));
  } catch (const Stopped&) {
    is_stopped = true;
  }
  REQUIRE(is_stopped);
}

}  // namespace

int main() {
  test_counts_are_64_bit();
  test_stop_ends_the_loop();
}
