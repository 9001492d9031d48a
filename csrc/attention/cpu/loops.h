// The table of one instruction level.
#pragma once

#include "attention/cpu/backward_loops.h"
#include "attention/cpu/forward_loops.h"
#include "attention/cpu/kernels.h"

namespace nanochat::attention {
namespace {

static_assert(kSpan == kQueriesPerTask);

template <typename T, int N, bool dot>
const Kernels& table_of() {
  using Fwd = ForwardLoops<T, N, dot>;
  using Bwd = BackwardLoops<T, N, dot>;
  static constexpr Kernels kTable{.forward_scratch = Fwd::scratch_bytes,
                                  .forward = Fwd::run,
                                  .backward_scratch = Bwd::scratch_bytes,
                                  .backward = Bwd::run};
  return kTable;
}

// bf16 is widened to fp32 on the way into a block.
template <int N>
const Kernels& widening_table_of(DType dtype) {
  return dtype == DType::kBFloat16 ? table_of<BFloat16, N, false>() : table_of<float, N, false>();
}

}  // namespace
}  // namespace nanochat::attention
