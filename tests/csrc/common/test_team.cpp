// Many short steps: each thread takes part in each, and what one throws arrives.
#include "common/team.h"

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "require.h"

namespace {

using nanochat::Team;

void test_every_thread_takes_part_in_every_step() {
  for (const int num_threads : {1, 2, 5}) {
    Team team(num_threads);
    REQUIRE(team.size() == static_cast<size_t>(num_threads));
    std::vector<int64_t> counts(team.size());  // plain: a step is over for all before the next one
    for (int64_t step = 0; step < 2000; ++step) {
      team.run([&](size_t thread) { ++counts[thread]; });
      for (const int64_t count : counts) REQUIRE(count == step + 1);
    }
  }
}

void test_failure_arrives_and_the_team_stays() {
  Team team(3);
  for (size_t failing = 0; failing < team.size(); ++failing) {
    bool has_failed = false;
    try {
      team.run([&](size_t thread) {
        if (thread == failing) throw std::runtime_error("lost");
      });
    } catch (const std::runtime_error&) {
      has_failed = true;
    }
    REQUIRE(has_failed);
    team.run([](size_t) {});
  }
}

}  // namespace

int main() {
  test_every_thread_takes_part_in_every_step();
  test_failure_arrives_and_the_team_stays();
}
