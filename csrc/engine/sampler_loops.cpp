#include "engine/sampler_loops.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "common/vector_math.h"

namespace nanochat::engine {
namespace {

using simd::Bits;
using simd::for_each_step;
using simd::kIsVector;
using simd::kLanes;
using simd::Math;
using simd::read;
using simd::Vector;
using simd::write;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kUnroll = 4;  // vectors that share one branch

// The double, or vector of doubles, for each float of F.
template <typename F>
struct Wider {
  typedef double Double __attribute__((vector_size(8 * kLanes<F>)));
  typedef uint64_t Bits __attribute__((vector_size(8 * kLanes<F>)));
};
template <>
struct Wider<float> {
  using Double = double;
  using Bits = uint64_t;
};

template <typename F>
NANOCHAT_HD typename Wider<F>::Double widen(F x) {
  if constexpr (kIsVector<F>) {
    return __builtin_convertvector(x, typename Wider<F>::Double);
  } else {
    return x;
  }
}

template <typename F>
NANOCHAT_HD F narrow(typename Wider<F>::Double x) {
  if constexpr (kIsVector<F>) {
    return __builtin_convertvector(x, F);
  } else {
    return static_cast<float>(x);
  }
}

// exp(x) = scale + scale * minus_one, of which tanh needs the parts.
template <typename D>
struct Exp {
  D scale;      // a power of 2
  D minus_one;  // exp(r) - 1 with its own relative error, 5e-16; scale is 1 where |x| < 0.34
};

// x in [-708, 708].
template <typename F, typename D = typename Wider<F>::Double>
NANOCHAT_HD Exp<D> exp_parts(D x) {
  using DoubleBits = typename Wider<F>::Bits;
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves n in the low bits
  const D shifted = x * kLog2E + kRound;
  const D n = shifted - kRound;
  // ln 2 in two parts: the first has 33 bits, so n times it is exact.
  const D r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  // exp(r) - 1 = r + r^2 (1 / 2! + r / 3! + ... + r^11 / 13!), by pairs: a chain of twelve steps
  // would be waited for, not computed.
  const D r2 = r * r, r4 = r2 * r2;
  const D low = (r * (1.0 / 6) + 0.5) + (r * (1.0 / 120) + 1.0 / 24) * r2;
  const D middle = (r * (1.0 / 5040) + 1.0 / 720) + (r * (1.0 / 362880) + 1.0 / 40320) * r2;
  const D high =
      (r * (1.0 / 39916800) + 1.0 / 3628800) + (r * (1.0 / 6227020800) + 1.0 / 479001600) * r2;
  const D p = low + (middle + high * r4) * r4;
  const D scale =
      std::bit_cast<D>((std::bit_cast<DoubleBits>(shifted) << 52) + (uint64_t{1023} << 52));
  return {scale, p * r2 + r};
}

template <typename D>
NANOCHAT_HD D clamp(D x, double low, double high) {
  const D lowest = D{} + low, highest = D{} + high;
  x = x < lowest ? lowest : x;
  return x > highest ? highest : x;
}

// The largest lane. A branch on "any lane is at least t" is a branch on largest(x) >= t: GCC 12
// takes the comparison of vectors apart, element by element, where it is itself the value.
template <typename V>
NANOCHAT_HD float largest(V x) {
  if constexpr (kLanes<V> > 4) {
    using Half = Vector<kLanes<V> / 2>;
    Half halves[2];
    std::memcpy(halves, &x, sizeof(x));
    return largest<Half>(halves[0] > halves[1] ? halves[0] : halves[1]);
  } else {
    return std::max(std::max(x[0], x[1]), std::max(x[2], x[3]));
  }
}

// The largest of kUnroll vectors.
template <typename V>
NANOCHAT_HD float largest_of_step(const float* logits) {
  V lanes = read<V>(logits);
  for (int k = 1; k < kUnroll; ++k) {
    const V x = read<V>(logits + k * kLanes<V>);
    lanes = x > lanes ? x : lanes;
  }
  return largest<V>(lanes);
}

// Calls body(N) with as many fp32 as fill a register as fp64.
template <typename Body>
void run_wide_at_level(CpuLevel level, const Body& body) {
  run_at_level(level, [&](auto lanes) NANOCHAT_INLINE_LAMBDA {
    body(std::integral_constant<int, lanes / 2>{});
  });
}

// Appends the i in [begin, end) for which rule(i) holds.
template <typename Rule>
NANOCHAT_HD void append(int64_t begin, int64_t end, const Rule& rule, int32_t* picks,
                        int64_t& num_picks) {
  for (int64_t i = begin; i < end; ++i) {
    picks[num_picks] = static_cast<int32_t>(i);  // one past those picked: there is room for all
    num_picks += rule(i) ? 1 : 0;
  }
}

}  // namespace

Largest max_of(CpuLevel level, std::span<const float> logits) {
  Largest largest{.value = -kInfinity, .is_sound = true};
  run_at_level(level, [&](auto N) NANOCHAT_INLINE_LAMBDA {
    using V = Vector<N>;
    constexpr int64_t kStep = int64_t{kUnroll} * N;
    const auto size = static_cast<int64_t>(logits.size());
    V largest_lanes[kUnroll], worst[kUnroll];  // worst: the last logit that is not below infinity
    for (int k = 0; k < kUnroll; ++k) largest_lanes[k] = worst[k] = V{} - kInfinity;
    int64_t i = 0;
    for (; i + kStep <= size; i += kStep) {
      for (int k = 0; k < kUnroll; ++k) {
        const V x = read<V>(logits.data() + i + k * N);
        largest_lanes[k] = x > largest_lanes[k] ? x : largest_lanes[k];
        worst[k] = x < V{} + kInfinity ? worst[k] : x;
      }
    }
    const auto take = [&](float x) { largest.value = std::max(largest.value, x); };
    for (int k = 0; k < kUnroll; ++k) {
      for (int lane = 0; lane < N; ++lane) {
        take(largest_lanes[k][lane]);
        largest.is_sound &= worst[k][lane] < kInfinity;
      }
    }
    for (; i < size; ++i) {
      take(logits[i]);
      largest.is_sound &= logits[i] < kInfinity;
    }
  });
  return largest;
}

int32_t index_of_max(CpuLevel level, std::span<const float> logits, float max) {
  int64_t i = 0;
  run_at_level(level, [&](auto N) NANOCHAT_INLINE_LAMBDA {
    using V = Vector<N>;
    constexpr int64_t kStep = int64_t{kUnroll} * N;
    for (; i + kStep <= static_cast<int64_t>(logits.size()); i += kStep) {
      if (largest_of_step<V>(logits.data() + i) >= max) break;
    }
  });
  while (logits[i] != max) ++i;
  return static_cast<int32_t>(i);
}

void softcap(CpuLevel level, std::span<const float> logits, float cap, float* capped) {
  run_wide_at_level(level, [&](auto N) NANOCHAT_INLINE_LAMBDA {
    const double two_over_cap = 2.0 / static_cast<double>(cap);
    for_each_step<Vector<N>, float>(
        static_cast<int64_t>(logits.size()), [&](auto tag, int64_t i) NANOCHAT_INLINE_LAMBDA {
          using F = typename decltype(tag)::type;
          const F x = read<F>(logits.data() + i);
          // tanh(y) = (exp(2 y) - 1) / (exp(2 y) + 1), which is 1 in fp64 from 2 y = 40 on.
          const auto e = exp_parts<F>(clamp(widen(x) * two_over_cap, -40.0, 40.0));
          const auto grown = e.scale * e.minus_one;
          const auto tanh = ((e.scale - 1.0) + grown) / ((e.scale + 1.0) + grown);
          const F y = narrow<F>(tanh * static_cast<double>(cap));
          write<F>(capped + i, x == F{} - kInfinity ? x : y);
        });
  });
}

void maxima_of_groups(CpuLevel level, std::span<const float> logits, std::span<float> maxima) {
  std::copy_n(logits.begin(), maxima.size(), maxima.begin());
  run_at_level(level, [&](auto N) NANOCHAT_INLINE_LAMBDA {
    for (size_t begin = maxima.size(); begin < logits.size(); begin += maxima.size()) {
      const auto size = static_cast<int64_t>(std::min(maxima.size(), logits.size() - begin));
      const float* row = logits.data() + begin;
      for_each_step<Vector<N>, float>(size, [&](auto tag, int64_t i) NANOCHAT_INLINE_LAMBDA {
        using F = typename decltype(tag)::type;
        const F x = read<F>(row + i), old = read<F>(maxima.data() + i);
        write<F>(maxima.data() + i, x > old ? x : old);
      });
    }
  });
}

int64_t pick_from(CpuLevel level, std::span<const float> logits, float threshold, int32_t* picks) {
  int64_t num_picks = 0;
  run_at_level(level, [&](auto N) NANOCHAT_INLINE_LAMBDA {
    using V = Vector<N>;
    constexpr int64_t kStep = int64_t{kUnroll} * N;
    const float* x = logits.data();
    const auto rule = [&](int64_t j) NANOCHAT_INLINE_LAMBDA { return x[j] >= threshold; };
    const auto size = static_cast<int64_t>(logits.size());
    int64_t i = 0;
    for (; i + kStep <= size; i += kStep) {
      if (largest_of_step<V>(x + i) >= threshold) append(i, i + kStep, rule, picks, num_picks);
    }
    append(i, size, rule, picks, num_picks);
  });
  return num_picks;
}

double sum_of_exp(CpuLevel level, std::span<const float> logits, float max) {
  double total = 0;
  run_at_level(level, [&](auto N) NANOCHAT_INLINE_LAMBDA {
    constexpr size_t kBlock = size_t{16} * N;  // logits summed in fp32, then joined in fp64
    for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
      simd::RowSum<Vector<N>, float> sum;
      for_each_step<Vector<N>, float>(
          static_cast<int64_t>(std::min(kBlock, logits.size() - begin)),
          [&](auto tag, int64_t i) NANOCHAT_INLINE_LAMBDA {
            using F = typename decltype(tag)::type;
            sum.add(Math::exp(read<F>(logits.data() + begin + i) - max));
          });
      total += static_cast<double>(sum.total());
    }
  });
  return total;
}

double weights_of(CpuLevel level, std::span<const float> logits, float max, double temperature,
                  double* weights) {
  double total = 0;
  run_wide_at_level(level, [&](auto N) NANOCHAT_INLINE_LAMBDA {
    using V = Vector<N>;
    const auto weight = [&](auto tag, int64_t i) NANOCHAT_INLINE_LAMBDA {
      using F = typename decltype(tag)::type;
      const auto x = (widen(read<F>(logits.data() + i)) - static_cast<double>(max)) / temperature;
      const auto e = exp_parts<F>(clamp(x, -708.0, 0.0));
      const auto w = e.scale + e.scale * e.minus_one;
      std::memcpy(weights + i, &w, sizeof(w));
      return w;
    };
    typename Wider<V>::Double sum{};
    const auto size = static_cast<int64_t>(logits.size());
    int64_t i = 0;
    for (; i + N <= size; i += N) sum += weight(TypeTag<V>{}, i);
    for (int lane = 0; lane < N; ++lane) total += sum[lane];
    for (; i < size; ++i) total += weight(TypeTag<float>{}, i);
  });
  return total;
}

double mass_from(CpuLevel level, std::span<const float> logits, const double* weights,
                 float threshold) {
  double mass = 0;
  run_wide_at_level(level, [&](auto N) NANOCHAT_INLINE_LAMBDA {
    using V = Vector<N>;
    using D = typename Wider<V>::Double;
    constexpr int64_t kStep = int64_t{kUnroll} * N;
    const auto size = static_cast<int64_t>(logits.size());
    const D edge = D{} + static_cast<double>(threshold);
    D sum[kUnroll]{};
    int64_t i = 0;
    for (; i + kStep <= size; i += kStep) {
      for (int k = 0; k < kUnroll; ++k) {
        D weight;
        std::memcpy(&weight, weights + i + k * N, sizeof(weight));
        sum[k] += widen(read<V>(logits.data() + i + k * N)) >= edge ? weight : D{};
      }
    }
    for (int k = 0; k < kUnroll; ++k) {
      for (int lane = 0; lane < N; ++lane) mass += sum[k][lane];
    }
    for (; i < size; ++i) mass += logits[i] >= threshold ? weights[i] : 0.0;
  });
  return mass;
}

int64_t pick_candidates(CpuLevel level, std::span<const float> logits, float max,
                        float inv_temperature, const int32_t* high_bits, float bound,
                        int32_t* picks) {
  int64_t num_picks = 0;
  run_at_level(level, [&](auto N) NANOCHAT_INLINE_LAMBDA {
    using V = Vector<N>;
    // Errors that the margin covers: 2e-5 of an exponential of at most 87, 1e-7 of the rest.
    const float scaled_bound = bound * 1.001f * 2147483648.0f;
    const auto gap = [&](auto tag, int64_t i) NANOCHAT_INLINE_LAMBDA {
      using F = typename decltype(tag)::type;
      const F weight = Math::exp((read<F>(logits.data() + i) - max) * inv_temperature);
      if constexpr (kIsVector<F>) {
        typedef int32_t Ints __attribute__((vector_size(4 * kLanes<F>)));
        Ints high;
        std::memcpy(&high, high_bits + i, sizeof(high));
        return weight * scaled_bound - __builtin_convertvector(high, F);
      } else {
        return weight * scaled_bound - static_cast<float>(high_bits[i]);
      }
    };
    const auto size = static_cast<int64_t>(logits.size());
    int64_t i = 0;
    for (; i + N <= size; i += N) {
      const V gaps = gap(TypeTag<V>{}, i);
      if (largest<V>(gaps) < 0.0f) continue;
      const auto rule = [&](int64_t j) NANOCHAT_INLINE_LAMBDA { return gaps[j - i] >= 0.0f; };
      append(i, i + N, rule, picks, num_picks);
    }
    const auto rule = [&](int64_t j)
                          NANOCHAT_INLINE_LAMBDA { return gap(TypeTag<float>{}, j) >= 0.0f; };
    append(i, size, rule, picks, num_picks);
  });
  return num_picks;
}

}  // namespace nanochat::engine
