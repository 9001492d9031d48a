// One launch for up to kTensors tensors, cut into chunks of one block each. Bound by memory: 28
// bytes for an fp32 element, 24 with bf16 parameter and gradient.
#include <algorithm>

#include "common/cuda/launch.h"
#include "muon/adamw.h"

namespace nanochat::adamw {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;
constexpr int64_t kChunk = kThreads * kPerThread;
constexpr int kTensors = 32;  // of a launch; their addresses are arguments of the kernel

struct Math {
  __device__ __forceinline__ static float sqrt(float x) { return sqrtf(x); }
};

template <typename P, typename G>
struct Tensors {
  P* params[kTensors];
  const G* grads[kTensors];
  float* exp_avg[kTensors];
  float* exp_avg_sq[kTensors];
  int64_t size[kTensors];
  unsigned first_block[kTensors + 1];  // of each tensor; last, of all
};

template <typename P, typename G>
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(const Tensors<P, G> tensors, const Element maths) {
  int t = 0;
  while (blockIdx.x >= tensors.first_block[t + 1]) ++t;
  const int64_t begin = int64_t{blockIdx.x - tensors.first_block[t]} * kChunk + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int64_t at = begin + i * kThreads;
    if (at < tensors.size[t]) {
      float param = load(tensors.params[t][at]);
      float first = tensors.exp_avg[t][at], second = tensors.exp_avg_sq[t][at];
      maths.update<Math>(param, first, second, load(tensors.grads[t][at]));
      store(tensors.params[t][at], param);
      tensors.exp_avg[t][at] = first;
      tensors.exp_avg_sq[t][at] = second;
    }
  }
}

template <typename P, typename G>
void launch(const Step& p, const Placement& where) {
  for (size_t first = 0; first < p.params.size(); first += kTensors) {
    Tensors<P, G> tensors{};
    unsigned num_blocks = 0;
    for (size_t i = 0; i < kTensors; ++i) {
      tensors.first_block[i] = num_blocks;
      if (first + i < p.params.size()) {
        const TensorView& param = p.params[first + i];
        tensors.params[i] = param.as<P>();
        tensors.grads[i] = p.grads[first + i].as<const G>();
        tensors.exp_avg[i] = p.exp_avg[first + i].as<float>();
        tensors.exp_avg_sq[i] = p.exp_avg_sq[first + i].as<float>();
        tensors.size[i] = num_elements(param);
        num_blocks += static_cast<unsigned>((tensors.size[i] + kChunk - 1) / kChunk);
      }
    }
    tensors.first_block[kTensors] = num_blocks;
    if (num_blocks == 0) continue;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(num_blocks);
    config.blockDim = dim3(kThreads);
    config.stream = cuda::stream_of(where);
    cuda::check_cuda(cudaLaunchKernelEx(&config, adamw_kernel<P, G>, tensors, Element(p)),
                     "adamw: launch");
  }
}

template <typename P>
void launch(const Step& p, const Placement& where) {
  p.grads[0].dtype == DType::kFloat32 ? launch<P, float>(p, where) : launch<P, BFloat16>(p, where);
}

}  // namespace

void step_cuda(const Step& p, const Placement& where) {
  const cuda::DeviceGuard guard(where.device);
  p.params[0].dtype == DType::kFloat32 ? launch<float>(p, where) : launch<BFloat16>(p, where);
}

}  // namespace nanochat::adamw
