// All loops of one instruction level, as the table of kernels.h. Included by the level's file.
#pragma once

#include "engine/cpu/attention_loops.h"
#include "engine/cpu/product_loops.h"
#include "engine/cpu/row_loops.h"

namespace nanochat::engine {
namespace {

template <int N, bool dot, Precision precision>
constexpr Kernels make_kernels() {
  using Lane = Lanes<N, dot, precision>;
  using Row = RowLoops<N, dot, precision>;
  using Products = ProductLoops<N, dot, precision>;
  return {.input_bytes = sizeof(typename Lane::Input),
          .cache_bytes = sizeof(typename Lane::Cached),
          .to_inputs = Row::to_inputs,
          .norm = Row::norm,
          .quantize = Lane::kQuantizes ? Row::quantize : nullptr,
          .multiply = Products::multiply,
          .rope_norm = Row::rope_norm,
          .store_key = Row::store_key,
          .store_value = Row::store_value,
          .attend = AttentionLoops<N, dot, precision>::attend};
}

template <int N, bool dot>
const Kernels& table_of(Precision precision) {
  static constexpr Kernels kHalf = make_kernels<N, dot, Precision::kBFloat16>();
  static constexpr Kernels kFull = make_kernels<N, dot, Precision::kFloat32>();
  static constexpr Kernels kInt8 = make_kernels<N, dot, Precision::kInt8>();
  if (precision == Precision::kInt8) return kInt8;
  return precision == Precision::kBFloat16 ? kHalf : kFull;
}

}  // namespace
}  // namespace nanochat::engine
