// REQUIRE(rule): where the rule does not hold, says so and aborts. Not assert: release builds test
// too.
#pragma once

#include <cstdio>
#include <cstdlib>

#define REQUIRE(rule)                                                              \
  if (!(rule)) {                                                                   \
    std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #rule); \
    std::abort();                                                                  \
  }                                                                                \
  static_assert(true)
