// Vectors of fp32 in the compiler's own vector extension (GCC, Clang). A loop is a template over
// Vector<N>, with N as wide as a register of the level it is compiled for (cpu_level.h): wider ones
// would work, but GCC takes their comparisons apart element by element.
#pragma once

#include <cstring>

#include "common/dtype.h"

namespace nanochat::simd {

template <int N>
struct Types {  // typedef, since GCC drops the attribute of a dependent alias
  typedef float Float __attribute__((vector_size(4 * N)));
  typedef uint32_t Bits __attribute__((vector_size(4 * N)));
  typedef uint16_t Half __attribute__((vector_size(2 * N)));
};

template <int N>
using Vector = typename Types<N>::Float;

template <typename F>
inline constexpr int kLanes = static_cast<int>(sizeof(F) / sizeof(float));

template <typename F>
inline constexpr bool kIsVector = !std::is_arithmetic_v<F>;

// The bits of a float or of a vector of floats, with which to compute as unsigned integers.
template <typename F>
using Bits = std::conditional_t<kIsVector<F>, typename Types<kLanes<F>>::Bits, uint32_t>;

// One vector or one element, whichever F is, so that a loop and its remainder share their body.
template <typename F, typename T>
NANOCHAT_HD F read(const T* p) {
  if constexpr (!kIsVector<F>) {
    return load(*p);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    typename Types<kLanes<F>>::Half half;
    std::memcpy(&half, p, sizeof(half));
    return std::bit_cast<F>(__builtin_convertvector(half, Bits<F>) << 16);
  } else {
    F x;
    std::memcpy(&x, p, sizeof(x));
    return x;
  }
}

template <typename F, typename T>
NANOCHAT_HD void write(T* p, F x) {
  if constexpr (!kIsVector<F>) {
    store(*p, x);
  } else if constexpr (std::is_same_v<T, BFloat16>) {  // the same rounding as to_bfloat16
    const auto bits = std::bit_cast<Bits<F>>(x);
    const Bits<F> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Bits<F> quiet = (bits >> 16) | 0x40u;
    const auto half =
        __builtin_convertvector(x == x ? rounded : quiet, typename Types<kLanes<F>>::Half);
    std::memcpy(p, &half, sizeof(half));
  } else {
    std::memcpy(p, &x, sizeof(x));
  }
}

// Calls body(TypeTag<F>{}, i) for i in [0, n): F is V while its lanes are full, then one element.
// Rows of fp64 exist for gradient checks and go element by element.
template <typename V, typename T, typename Body>
NANOCHAT_HD void for_each_step(int64_t n, const Body& body) {
  int64_t i = 0;
  if constexpr (!std::is_same_v<T, double>) {
    for (; i + kLanes<V> <= n; i += kLanes<V>) body(TypeTag<V>{}, i);
  }
  for (; i < n; ++i) body(TypeTag<Acc<T>>{}, i);
}

// A sum over a row: one per lane, one for the remainder, joined in a fixed order.
template <typename V, typename A>
struct RowSum {
  V lanes{};
  A rest{};

  NANOCHAT_HD void add(V x) { lanes += x; }
  NANOCHAT_HD void add(A x) { rest += x; }
  NANOCHAT_HD A total() const {
    A sum = rest;
    for (int i = 0; i < kLanes<V>; ++i) sum += static_cast<A>(lanes[i]);
    return sum;
  }
};

}  // namespace nanochat::simd
