// The first half of the MLP.
#include "engine/cuda/rows.cuh"

namespace nanochat::engine::cuda {
namespace {

struct SquaredReluEpilogue {
  static constexpr bool kNormed = true;
  SquaredRelu p;
  int rows;

  __device__ __forceinline__ void operator()(int64_t token, int row, float sum, float norm) const {
    const float x = fmaxf(sum * norm, 0.0f);
    p.out[activation_index(token, row, rows)] = to_bfloat16(x * x);
  }
};

}  // namespace

void launch_squared_relu(const Launcher& where, const Gemm& gemm, const SquaredRelu& p,
                         int num_tokens) {
  launch_rows(where, "engine: fc", gemm, SquaredReluEpilogue{p, gemm.rows}, num_tokens);
}

}  // namespace nanochat::engine::cuda
