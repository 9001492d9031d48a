// Many short steps: each task is done once before the next step, and what one throws arrives.
#include "common/team.h"

#include <cstdint>
#include <stdexcept>
#include <vector>

#include "require.h"

namespace {

using nanochat::Team;

void test_every_task_of_every_step_is_done_once() {
  for (const int num_threads : {1, 2, 5}) {
    Team team(num_threads);
    REQUIRE(team.size() == static_cast<size_t>(num_threads));
    for (const size_t num_tasks : {size_t{0}, size_t{1}, size_t{2}, size_t{7}, Team::kMaxTasks}) {
      std::vector<int64_t> counts(num_tasks);  // plain: a step is over before run() returns
      for (int64_t step = 0; step < 500; ++step) {
        team.run(num_tasks, [&](size_t task) { ++counts[task]; });
        for (const int64_t count : counts) REQUIRE(count == step + 1);
      }
    }
  }
}

void test_failure_arrives_and_the_team_stays() {
  Team team(3);
  for (size_t failing = 0; failing < 4; ++failing) {
    bool has_failed = false;
    try {
      team.run(4, [&](size_t task) {
        if (task == failing) throw std::runtime_error("lost");
      });
    } catch (const std::runtime_error&) {
      has_failed = true;
    }
    REQUIRE(has_failed);
    team.run(4, [](size_t) {});
  }
}

}  // namespace

int main() {
  test_every_task_of_every_step_is_done_once();
  test_failure_arrives_and_the_team_stays();
}
