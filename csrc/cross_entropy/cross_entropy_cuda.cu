// A block per row, which is read from memory once and evaluated once: what a later pass needs waits
// on the chip in fp32, a thread's first vector in registers, the others in shared memory.
//
//            512 threads, 16 B each        512 threads ...
//   row    | vector 0 of each thread     | vector 1 of each thread  | ...  | fewer than 8 |
//            registers (4096 bf16)         shared memory (28 x 1024)         read again
//
// With two blocks on an SM of sm_90 that is room for 32768 bf16 logits, on sm_80 for 24576. Of a
// longer row the rest is read and evaluated twice.
//
// Roofline, H200 (4.8 TB/s, 132 SMs at 1.98 GHz, 16 special functions a cycle each: 4.2e12 /s)
//   bytes              4 for each bf16 logit, in and out        0.83 ns per 1000
//   special functions  3 for each logit: exp, reciprocal, exp   0.72 ns per 1000
// Two blocks, so that one computes while the other waits for memory.
#include <algorithm>

#include "common/cuda/launch.h"
#include "common/cuda/mma.cuh"
#include "common/cuda/reduce.cuh"
#include "common/cuda/vector.cuh"
#include "cross_entropy/cross_entropy.h"
#include "cross_entropy/cross_entropy_row.h"
#include "cross_entropy/special.cuh"

namespace nanochat::cross_entropy {
namespace {

using cuda::kVectorSize;
using cuda::reduce_block;
using cuda::store_vector;

constexpr int kThreads = 512;
constexpr int kBlocksPerSm = 2;  // at least: 64 registers

struct Math {
  static constexpr float kLog2E = 1.44269504f;
  // Saturates like the CPU's, so that the largest logits give 0 and not infinity times 0.
  __device__ __forceinline__ static float exp(float x) {
    return exp2_approx((x > 88.0f ? 88.0f : x) * kLog2E);
  }
  __device__ __forceinline__ static float reciprocal(float x) { return reciprocal_approx(x); }
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
  int num_kept;  // vectors of a thread that wait on the chip
};

// Vector k of this thread, as it lies in memory.
template <typename T>
__device__ __forceinline__ T* vector_of_thread(T* row, int k) {
  return row + (int64_t{k} * kThreads + threadIdx.x) * kVectorSize<T>;
}

// The columns that a thread keeps from pass to pass.
template <typename T>
class Kept {
 public:
  static constexpr int kSize = kVectorSize<T>;
  static constexpr int kBytes = kThreads * kSize * static_cast<int>(sizeof(float));  // beyond k = 0

  __device__ __forceinline__ void put(int k, const float (&x)[kSize]) {
    if (k == 0) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) first_[i] = x[i];
    } else {
#pragma unroll
      for (int i = 0; i < kSize; i += 4) *shared(k, i) = {x[i], x[i + 1], x[i + 2], x[i + 3]};
    }
  }

  // Calls body(k, x) for k < count.
  template <typename Body>
  __device__ __forceinline__ void for_each(int count, const Body& body) {
    if (count == 0) return;
    body(0, first_);
    for (int k = 1; k < count; ++k) {
      float x[kSize];
#pragma unroll
      for (int i = 0; i < kSize; i += 4) {
        const Four four = *shared(k, i);
        x[i] = four.x[0], x[i + 1] = four.x[1], x[i + 2] = four.x[2], x[i + 3] = four.x[3];
      }
      body(k, x);
    }
  }

 private:
  struct alignas(16) Four {
    float x[4];
  };
  // Neighbouring threads 16 bytes apart: free of bank conflicts.
  __device__ __forceinline__ static Four* shared(int k, int i) {
    return reinterpret_cast<Four*>(cuda::dynamic_shared()) +
           ((k - 1) * (kSize / 4) + i / 4) * kThreads + threadIdx.x;
  }

  float first_[kSize];
};

// Calls body(k, x) for vectors first <= k < count, each asked for while the one before is in work.
template <typename T, typename Body>
__device__ __forceinline__ void for_each_in_memory(const T* row, int first, int count,
                                                   const Body& body) {
  constexpr int kSize = kVectorSize<T>;
  union {
    uint4 raw;
    T elements[kSize];
  } vector;
  uint4 next{};
  const auto ask = [&](int k) { next = *reinterpret_cast<const uint4*>(vector_of_thread(row, k)); };
  if (first < count) ask(first);
  for (int k = first; k < count; ++k) {
    vector.raw = next;
    if (k + 1 < count) ask(k + 1);
    float x[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) x[i] = load(vector.elements[i]);
    body(k, x);
  }
}

template <typename T>
__device__ __forceinline__ void fill_with_zeros(T* row, int64_t begin, int64_t end) {
  for (int64_t j = begin + threadIdx.x; j < end; j += kThreads) store(row[j], 0.0f);
}

template <typename T, bool kSoftcap, bool kGradient>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm) row_kernel(const Args<T> args) {
  constexpr int kSize = kVectorSize<T>;
  __shared__ float scratch[kThreads / cuda::kWarp];
  const int64_t i = blockIdx.x;
  T* const row = args.logits + i * args.stride;
  const int64_t target = args.targets[i];
  if (target == args.ignore_index) {
    if constexpr (kGradient) fill_with_zeros(row, 0, args.num_columns);
    if (threadIdx.x == 0) args.loss[i] = 0.0f;
    return;
  }

  const int64_t V = args.vocab_size;
  const int thread = static_cast<int>(threadIdx.x);
  const int num_vectors = static_cast<int>(V / kSize);
  const int count = (num_vectors - thread + kThreads - 1) / kThreads;  // of this thread; 0 if fewer
  const int num_kept = count < args.num_kept ? count : args.num_kept;
  // The columns behind the last whole vector, one for each of the first threads.
  const int64_t single = int64_t{num_vectors} * kSize + thread;
  const bool is_target_thread = thread == 0 && target >= 0 && target < V;
  // Before any thread writes a gradient: barriers follow.
  const float target_logit = is_target_thread ? load(row[target]) : NAN;
  const float single_logit = single < V ? load(row[single]) : 0.0f;

  Kept<T> kept;
  RowMaths<kSoftcap> maths{
      .cap = args.cap, .two_over_cap = kSoftcap ? 2.0f / args.cap : 0.0f, .origin = 0.0f};
  const bool needs_max = maths.needs_max(args.cap);
  if (needs_max) {
    float largest = single < V ? single_logit : -INFINITY;
    for_each_in_memory(row, 0, count, [&](int k, const float (&x)[kSize]) {
#pragma unroll
      for (int n = 0; n < kSize; ++n) largest = fmaxf(largest, x[n]);
      if (k < num_kept) kept.put(k, x);
    });
    maths.template set_origin<Math>(reduce_block<kThreads>(largest, scratch, cuda::Max{}));
  }

  // An element's share of the softmax's sum; in its place, its gradient but for the sum.
  const auto evaluate = [&](float& x) {
    const Element<float> element = maths.template element<Math>(x);
    const float e = Math::exp(element.exponent);
    x = e * element.slope;
    return e;
  };
  float sum = 0.0f;
  const auto add = [&](int k, const float (&logits)[kSize]) {
    float x[kSize];
#pragma unroll
    for (int n = 0; n < kSize; ++n) {
      x[n] = logits[n];
      sum += evaluate(x[n]);
    }
    if (kGradient && k < num_kept) kept.put(k, x);
  };
  if (needs_max) kept.for_each(num_kept, add);
  for_each_in_memory(row, needs_max ? num_kept : 0, count, add);
  float single_gradient = single_logit;
  if (single < V) sum += evaluate(single_gradient);
  sum = reduce_block<kThreads>(sum, scratch, cuda::Sum{});

  const Element<float> hit = maths.template element<Math>(target_logit);
  if (thread == 0) args.loss[i] = logf(sum) - hit.exponent;  // NaN if the target is no column
  if constexpr (kGradient) {
    const float inv_sum = 1.0f / sum;
    const auto write = [&](int k, const float (&x)[kSize]) {
      float y[kSize];
#pragma unroll
      for (int n = 0; n < kSize; ++n) y[n] = x[n] * inv_sum;
      store_vector(vector_of_thread(row, k), y);
    };
    kept.for_each(num_kept, write);
    for_each_in_memory(row, num_kept, count, [&](int k, const float (&logits)[kSize]) {
      float x[kSize];
#pragma unroll
      for (int n = 0; n < kSize; ++n) {
        x[n] = logits[n];
        evaluate(x[n]);
      }
      write(k, x);
    });
    if (single < V) store(row[single], single_gradient * inv_sum);
    fill_with_zeros(row, V, args.num_columns);
    __syncthreads();  // the target's gradient comes after the share of the softmax there
    if (is_target_thread) {
      store(row[target], (Math::exp(hit.exponent) * inv_sum - 1.0f) * hit.slope);
    }
  }
}

// Shared memory of a block, so that kBlocksPerSm of them fit.
[[nodiscard]] int shared_bytes(int device) {
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    cuda::check_cuda(cudaDeviceGetAttribute(&value, which, device), "cross_entropy: shared memory");
    return value;
  };
  constexpr int kScratchBytes = 128;  // the kernel's own, up to the alignment of what follows
  return attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / kBlocksPerSm -
         attribute(cudaDevAttrReservedSharedMemoryPerBlock) - kScratchBytes;
}

template <typename T>
void launch(const Rows& p, const Placement& where) {
  const TensorView& logits = p.logits;
  const int64_t stride = logits.sizes[0] > 1 ? logits.strides[0] : 0;
  check(reinterpret_cast<uintptr_t>(logits.data) % cuda::kVectorBytes == 0 &&
            stride % kVectorSize<T> == 0,
        "cross_entropy: rows of logits must begin at multiples of ", cuda::kVectorBytes,
        " bytes on CUDA, got stride ", stride);
  constexpr int kSweep = kThreads * kVectorSize<T>;  // columns that a block takes at once
  const int64_t sweeps = std::max<int64_t>(1, (p.vocab_size + kSweep - 1) / kSweep);
  const int room = 1 + shared_bytes(where.device) / Kept<T>::kBytes;
  const int num_kept = static_cast<int>(std::min<int64_t>(sweeps, room));
  const Args<T> args{.logits = logits.as<T>(),
                     .targets = p.targets.as<const int64_t>(),
                     .loss = p.loss.as<float>(),
                     .stride = stride,
                     .num_columns = logits.sizes[1],
                     .vocab_size = p.vocab_size,
                     .ignore_index = p.ignore_index,
                     .cap = static_cast<float>(p.softcap),
                     .num_kept = num_kept};
  const auto kernel =
      p.softcap > 0 ? (p.with_gradient ? row_kernel<T, true, true> : row_kernel<T, true, false>)
                    : (p.with_gradient ? row_kernel<T, false, true> : row_kernel<T, false, false>);
  const int kept_bytes = (num_kept - 1) * Kept<T>::kBytes;
  cuda::check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kept_bytes),
      "cross_entropy: shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(logits.sizes[0]));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(kept_bytes);
  config.stream = cuda::stream_of(where);
  cuda::check_cuda(cudaLaunchKernelEx(&config, kernel, args), "cross_entropy: launch");
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
