// The loops of attention on the CPU, compiled once for each instruction level and chosen at run
// time; cost and layout in README.md.
#pragma once

#include "attention/attention.h"

namespace nanochat::attention {

struct Kernels {
  int64_t (*forward_scratch)(int64_t T, int64_t D);  // bytes, for one thread
  // Blocks of kQueriesPerTask queries, counted through (batch, query head, block).
  void (*forward)(const Forward& p, int64_t begin, int64_t end, char* scratch);
  int64_t (*backward_scratch)(int64_t T, int64_t D);
  // Key/value heads, counted through (batch, head).
  void (*backward)(const Backward& p, int64_t begin, int64_t end, char* scratch);
};

inline constexpr int64_t kQueriesPerTask = 96;

[[nodiscard]] const Kernels& kernels(CpuLevel level, DType dtype);

}  // namespace nanochat::attention
