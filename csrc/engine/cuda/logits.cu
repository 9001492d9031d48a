// The head, for tokens whose logits are wanted.
#include "engine/cuda/rows.cuh"

namespace nanochat::engine::cuda {
namespace {

struct LogitsEpilogue {
  static constexpr bool kNormed = true;
  Logits p;

  __device__ __forceinline__ void operator()(int64_t token, int row, float sum, float norm) const {
    p.out[token * p.stride + row] = sum * norm;
  }
};

}  // namespace

void launch_logits(const Launcher& where, const Gemm& gemm, const Logits& p, int num_tokens) {
  launch_rows(where, "engine: head", gemm, LogitsEpilogue{p}, num_tokens);
}

}  // namespace nanochat::engine::cuda
