// Kernel 0: a block per token gathers its embedding, norms it, smears some of the previous token's
// into it, and begins the stream. The previous embedding is looked up again rather than kept: a
// token's state is then its id alone, whatever chunk it came in.
#include "attention/prepass_row.h"
#include "engine/cuda/launch.cuh"
#include "engine/cuda/ptx.cuh"
#include "engine/cuda/residual.cuh"

namespace nanochat::engine::cuda {
namespace {

using nanochat::cuda::reduce_block;
using nanochat::cuda::reduce_lanes;
using nanochat::cuda::Sum;

constexpr int kThreads = 256;

__device__ __forceinline__ float sum_of_squares(const BFloat16* row, int channels, float* scratch) {
  float sum = 0.0f;
  for (int c = threadIdx.x; c < channels; c += kThreads) {
    const float x = to_float(row[c]);
    sum = fmaf(x, x, sum);
  }
  return reduce_block<kThreads>(sum, scratch, Sum{});
}

__global__ void __launch_bounds__(kThreads) embed_kernel(const Embed p) {
  __shared__ float scratch[kThreads / nanochat::cuda::kWarp];
  let_next_start();
  wait_for_previous();
  const int64_t token = blockIdx.x;
  const int channels = p.out.channels;
  const int previous = p.step.previous[token];
  const BFloat16* row = p.table + int64_t{p.step.token[token]} * channels;
  const BFloat16* before = p.table + int64_t{previous < 0 ? 0 : previous} * channels;

  const float scale =
      attention::inv_rms(sum_of_squares(row, channels, scratch), channels, p.out.eps);
  float smear = 0.0f;  // of the previous embedding, its norm included
  if (p.smear_gate != nullptr && previous >= 0) {
    float logit = 0.0f;
    for (int c = threadIdx.x; c < p.smear_channels; c += kThreads) {
      logit = fmaf(p.smear_gate[c], to_float(row[c]) * scale, logit);
    }
    logit = reduce_block<kThreads>(logit, scratch, Sum{});
    const float before_scale =
        attention::inv_rms(sum_of_squares(before, channels, scratch), channels, p.out.eps);
    smear = p.smear_lambda / (1.0f + expf(-logit)) * before_scale;
  }

  for (int base = 0; base < channels; base += kThreads) {
    const int c = base + static_cast<int>(threadIdx.x);
    const bool is_inside = c < channels;  // by sixteens
    float x0 = 0.0f;
    if (is_inside) {
      x0 = to_float(row[c]) * scale;
      if (smear != 0.0f) x0 = fmaf(smear, to_float(before[c]), x0);
      p.x0[token * channels + c] = x0;
    }
    write_residual(p.out, is_inside ? token : -1, c, x0 * p.lambda);
  }
}

}  // namespace

void launch_embed(const Launcher& where, const Embed& p, int num_tokens) {
  launch(where, "engine: embedding", embed_kernel, dim3(static_cast<unsigned>(num_tokens)),
         kThreads, p);
}

}  // namespace nanochat::engine::cuda
