// How a writer leaves one element of the residual stream.
#pragma once

#include "common/cuda/reduce.cuh"
#include "engine/cuda/kernels.h"

namespace nanochat::engine::cuda {

// Sixteen lanes of a warp have channels 16 slot .. 16 slot + 15 of a token, in order; all lanes of
// the warp must call. A token below 0 is not written.
__device__ __forceinline__ void write_residual(const Residual& out, int64_t token, int channel,
                                               float x) {
  // The rounded square: a fused one would be another in each lane.
  const float squares =
      nanochat::cuda::reduce_lanes<kMmaRows>(__fmul_rn(x, x), nanochat::cuda::Sum{});
  if (token < 0) return;
  if (out.x != nullptr) out.x[token * out.channels + channel] = x;
  out.multiplier[activation_index(token, channel, out.channels)] = to_bfloat16(x);
  if (channel % kMmaRows == 0) {
    out.squares[squares_index(token, channel / kMmaRows, out.channels)] = squares;
  }
}

}  // namespace nanochat::engine::cuda
