// A block per row, twice over it: the first pass sums the softmax, the second writes the gradient
// in place of the logits. The second reading of a row (64 KB at V = 32768 in bf16) comes from L2:
// the rows of all resident blocks fit there.
//
// Roofline, H200 (4.8 TB/s, 132 SMs at 1.98 GHz with 16 special-function lanes each: 4.2e12 /s)
//   bytes = 2 * sizeof(T) for each logit with the gradient: 4 B in bf16, 0.83 ns per 1000
//   special functions: 3 for each logit and pass (exp, reciprocal, exp), 6 in all: 1.4 ns per 1000
// So the second evaluation costs more than memory does; keeping the row in registers is the next
// step once this version has run on hardware.
#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"
#include "common/cuda/vector.cuh"
#include "cross_entropy/cross_entropy.h"
#include "cross_entropy/cross_entropy_row.h"

namespace nanochat::cross_entropy {
namespace {

using cuda::kVectorSize;
using cuda::load_vector;
using cuda::reduce_block;
using cuda::store_vector;

constexpr int kThreads = 512;
constexpr int kBlocksPerSm = 2;  // at least: 64 registers; ptxas alone aims at 32 and spills

struct Math {
  // Saturates like the CPU's, so that the largest logits give 0 and not infinity times 0.
  __device__ __forceinline__ static float exp(float x) { return __expf(x > 88.0f ? 88.0f : x); }
  __device__ __forceinline__ static float reciprocal(float x) { return __frcp_rn(x); }
};

template <typename T>
struct Args {
  T* logits;
  const int64_t* targets;
  float* loss;
  int64_t stride;       // of a row of logits
  int64_t num_columns;  // Vpad
  int64_t vocab_size;
  int64_t ignore_index;
  float cap;
  float grad_scale;
};

// Calls body(j, x) for each column j < n of this thread, 16 bytes at a time, the remainder singly.
// The value that body returns is stored if kStore.
template <bool kStore, typename T, typename Body>
__device__ __forceinline__ void for_each_column(T* row, int64_t n, const Body& body) {
  constexpr int kSize = kVectorSize<T>;
  const int64_t whole = n / kSize * kSize;
  for (int64_t j = int64_t{threadIdx.x} * kSize; j < whole; j += int64_t{kThreads} * kSize) {
    float x[kSize];
    load_vector(row + j, x);
#pragma unroll
    for (int i = 0; i < kSize; ++i) x[i] = body(j + i, x[i]);
    if constexpr (kStore) store_vector(row + j, x);
  }
  for (int64_t j = whole + threadIdx.x; j < n; j += kThreads) {
    const float x = body(j, load(row[j]));
    if constexpr (kStore) store(row[j], x);
  }
}

template <typename T, bool kSoftcap, bool kGradient>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm) row_kernel(const Args<T> args) {
  __shared__ float scratch[kThreads / cuda::kWarp];
  const int64_t i = blockIdx.x;
  T* row = args.logits + i * args.stride;
  const int64_t target = args.targets[i];
  if (target == args.ignore_index) {
    if constexpr (kGradient) {
      for (int64_t j = threadIdx.x; j < args.num_columns; j += kThreads) store(row[j], 0.0f);
    }
    if (threadIdx.x == 0) args.loss[i] = 0.0f;
    return;
  }

  const int64_t V = args.vocab_size;
  RowMaths<kSoftcap> maths{
      .cap = args.cap, .two_over_cap = kSoftcap ? 2.0f / args.cap : 0.0f, .origin = 0.0f};
  if (maths.needs_max(args.cap)) {
    float largest = -INFINITY;
    for_each_column<false>(row, V, [&](int64_t, float x) { return largest = fmaxf(largest, x); });
    maths.template set_origin<Math>(reduce_block<kThreads>(largest, scratch, cuda::Max{}));
  }

  float sum = 0.0f;
  for_each_column<false>(row, V, [&](int64_t, float x) {
    return sum += Math::exp(maths.template element<Math>(x).exponent);
  });
  sum = reduce_block<kThreads>(sum, scratch, cuda::Sum{});

  if (threadIdx.x == 0) {  // before the logits are overwritten: see the barrier below
    const bool is_column = target >= 0 && target < V;
    args.loss[i] =
        is_column ? logf(sum) - maths.template element<Math>(load(row[target])).exponent : NAN;
  }
  if constexpr (kGradient) {
    __syncthreads();
    const float inv_sum = 1.0f / sum;
    for_each_column<true>(row, V, [&](int64_t j, float x) {
      const Element<float> element = maths.template element<Math>(x);
      const float p = Math::exp(element.exponent) * inv_sum;
      return (p - (j == target ? 1.0f : 0.0f)) * element.slope * args.grad_scale;
    });
    for (int64_t j = V + threadIdx.x; j < args.num_columns; j += kThreads) store(row[j], 0.0f);
  }
}

template <typename T>
void launch(const Rows& p, const Placement& where) {
  const TensorView& logits = p.logits;
  const int64_t stride = logits.sizes[0] > 1 ? logits.strides[0] : 0;
  check(reinterpret_cast<uintptr_t>(logits.data) % cuda::kVectorBytes == 0 &&
            stride % kVectorSize<T> == 0,
        "cross_entropy: rows of logits must begin at multiples of ", cuda::kVectorBytes,
        " bytes on CUDA, got stride ", stride);
  const Args<T> args{.logits = logits.as<T>(),
                     .targets = p.targets.as<const int64_t>(),
                     .loss = p.loss.as<float>(),
                     .stride = stride,
                     .num_columns = logits.sizes[1],
                     .vocab_size = p.vocab_size,
                     .ignore_index = p.ignore_index,
                     .cap = static_cast<float>(p.softcap),
                     .grad_scale = static_cast<float>(p.grad_scale)};
  const auto kernel =
      p.softcap > 0 ? (p.with_gradient ? row_kernel<T, true, true> : row_kernel<T, true, false>)
                    : (p.with_gradient ? row_kernel<T, false, true> : row_kernel<T, false, false>);
  kernel<<<static_cast<unsigned>(logits.sizes[0]), kThreads, 0, cuda::stream_of(where)>>>(args);
  cuda::check_cuda(cudaGetLastError(), "cross_entropy: launch");
}

}  // namespace

void forward_cuda(const Rows& p, const Placement& where) {
  if (p.logits.sizes[0] == 0) return;
  const cuda::DeviceGuard guard(where.device);
  if (p.logits.dtype == DType::kBFloat16) {
    launch<BFloat16>(p, where);
  } else {
    launch<float>(p, where);
  }
}

}  // namespace nanochat::cross_entropy
