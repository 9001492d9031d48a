// A row at a time: one pass sums the softmax and keeps each element's unscaled
// gradient in fp32 (16 KB at V = 4096: it stays in L1), a second scales it into the logits.
// Bound by arithmetic: two exponentials and a division for each element, about 45 instructions
// for 16 of them with AVX-512; memory sees the logits once in and once out.
#include <algorithm>
#include <cmath>
#include <vector>

#include "common/thread_pool.h"
#include "common/vector_math.h"
#include "cross_entropy/cross_entropy.h"
#include "cross_entropy/cross_entropy_row.h"

namespace nanochat::cross_entropy {
namespace {

using simd::for_each_step;
using simd::Math;
using simd::read;
using simd::write;

template <typename V, typename T>
NANOCHAT_HD float max_of_row(const T* logits, int64_t num_columns) {
  V lanes = V{} + load(logits[0]);
  float rest = load(logits[0]);
  for_each_step<V, T>(num_columns, [&](auto tag, int64_t j) NANOCHAT_INLINE_LAMBDA {
    using F = typename decltype(tag)::type;
    const F x = read<F>(logits + j);
    if constexpr (simd::kIsVector<F>) {
      lanes = x > lanes ? x : lanes;
    } else {
      rest = x > rest ? x : rest;
    }
  });
  for (int i = 0; i < simd::kLanes<V>; ++i) rest = lanes[i] > rest ? lanes[i] : rest;
  return rest;
}

// Returns sum_j exp(exponent_j); with a gradient also fills weights[j] = exp(exponent_j) slope_j.
template <typename V, bool kSoftcap, bool kGradient, typename T>
NANOCHAT_HD double sum_of_row(const T* logits, int64_t num_columns, RowMaths<kSoftcap> maths,
                              float* weights) {
  constexpr int64_t kBlock = 2048;  // columns summed in fp32 before they join the fp64 sum
  double total = 0.0;
  for (int64_t begin = 0; begin < num_columns; begin += kBlock) {
    simd::RowSum<V, float> sum;
    for_each_step<V, T>(
        std::min(kBlock, num_columns - begin), [&](auto tag, int64_t i) NANOCHAT_INLINE_LAMBDA {
          using F = typename decltype(tag)::type;
          const Element<F> x = maths.template element<Math>(read<F>(logits + begin + i));
          const F e = Math::exp(x.exponent);
          sum.add(e);
          if constexpr (kGradient) write<F>(weights + begin + i, e * x.slope);
        });
    total += static_cast<double>(sum.total());
  }
  return total;
}

template <typename V, bool kSoftcap, bool kGradient, typename T>
NANOCHAT_HD float loss_of_row(T* logits, int64_t num_columns, int64_t target,
                              RowMaths<kSoftcap> maths, float* weights) {
  if (maths.needs_max(maths.cap))
    maths.template set_origin<Math>(max_of_row<V>(logits, num_columns));
  const double sum = sum_of_row<V, kSoftcap, kGradient>(logits, num_columns, maths, weights);
  const Element<float> hit = maths.template element<Math>(load(logits[target]));
  if constexpr (kGradient) {
    const float scale = static_cast<float>(1.0 / sum);
    for_each_step<V, T>(num_columns, [&](auto tag, int64_t j) NANOCHAT_INLINE_LAMBDA {
      using F = typename decltype(tag)::type;
      write<F>(logits + j, read<F>(weights + j) * scale);
    });
    const double p = static_cast<double>(Math::exp(hit.exponent)) / sum;
    store(logits[target], static_cast<float>(p - 1.0) * hit.slope);
  }
  return static_cast<float>(std::log(sum) - static_cast<double>(hit.exponent));
}

template <typename V, bool kSoftcap, bool kGradient, typename T>
NANOCHAT_HD void rows(const Rows& p, int64_t begin, int64_t end, float* weights) {
  const float cap = static_cast<float>(p.softcap);
  const RowMaths<kSoftcap> maths{
      .cap = cap, .two_over_cap = kSoftcap ? 2.0f / cap : 0.0f, .origin = 0.0f};
  for (int64_t i = begin; i < end; ++i) {
    T* row = p.logits.as<T>() + i * p.logits.strides[0];
    const int64_t target = p.targets.as<const int64_t>()[i];
    float& loss = p.loss.as<float>()[i];
    if (target == p.ignore_index) {
      loss = 0.0f;
      if constexpr (kGradient) std::fill_n(row, p.logits.sizes[1], T{});
      continue;
    }
    loss = loss_of_row<V, kSoftcap, kGradient>(row, p.vocab_size, target, maths, weights);
    if constexpr (kGradient) std::fill(row + p.vocab_size, row + p.logits.sizes[1], T{});
  }
}

void check_targets(const Rows& p) {
  for (int64_t i = 0; i < p.targets.sizes[0]; ++i) {
    const int64_t target = p.targets.as<const int64_t>()[i];
    if (target != p.ignore_index && (target < 0 || target >= p.vocab_size)) {
      throw std::out_of_range(concat("cross_entropy: targets must be below vocab_size ",
                                     p.vocab_size, " or ignore_index ", p.ignore_index, ", got ",
                                     target, " at row ", i));
    }
  }
}

// Calls f with each of two booleans as a constant.
template <typename F>
void dispatch_bools(bool a, bool b, const F& f) {
  const auto second = [&](auto first) {
    b ? f(first, std::true_type{}) : f(first, std::false_type{});
  };
  a ? second(std::true_type{}) : second(std::false_type{});
}

}  // namespace

void forward_cpu(const Rows& p, const Placement& where) {
  check_targets(p);
  // Starting a thread costs about 20 us, the time of this many elements.
  constexpr int64_t kMinElementsPerThread = 1 << 15;
  const int64_t N = p.logits.sizes[0];
  const int64_t worth = std::max<int64_t>(1, N * p.vocab_size / kMinElementsPerThread);
  const int num_threads = static_cast<int>(std::min<int64_t>(where.num_threads, worth));
  parallel_for(N, num_threads, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(p.with_gradient ? static_cast<size_t>(p.vocab_size) : 0);
    dispatch_bools(p.softcap > 0, p.with_gradient, [&](auto softcap, auto gradient) {
      run_at_level(where.cpu_level, [&](auto lanes) NANOCHAT_INLINE_LAMBDA {
        using V = simd::Vector<lanes>;
        if (p.logits.dtype == DType::kBFloat16) {
          rows<V, softcap.value, gradient.value, BFloat16>(p, begin, end, weights.data());
        } else {
          rows<V, softcap.value, gradient.value, float>(p, begin, end, weights.data());
        }
      });
    });
  });
}

}  // namespace nanochat::cross_entropy
