// What the loops of one instruction level compute with. The unit of memory is the word: a number,
// or a pair of bf16 that vdpbf16ps multiplies and adds at once. A product walks its depth in words,
// and so does not know which of the two it is.
//
// The files *_loops.h and those that they include are compiled once for each level, with its flags.
// Everything in them is in an anonymous namespace and what they call is inlined, so that no code of
// a higher level is linked into a lower one.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <utility>

#include "common/simd.h"

namespace nanochat::attention {
namespace {

#define NANOCHAT_UNROLL _Pragma("GCC unroll 32")

// T: element of the tensors. N: lanes of a register; 1 with double. dot: words are pairs of bf16.
template <typename T, int N, bool dot>
struct Lanes {
  using F = Acc<T>;
  using V = std::conditional_t<std::is_same_v<T, double>, double, simd::Vector<N>>;
  using Row = simd::Vector<N == 1 ? 4 : N>;  // of simd::for_each_step, which takes doubles singly
  using Word = std::conditional_t<dot, uint32_t, F>;
  using Words = std::conditional_t<dot, simd::Bits<V>, V>;
  using Halves = typename simd::Types<2 * N>::Half;  // of as many bf16 as fill a register
  static constexpr int kPerWord = dot ? 2 : 1;       // elements

  [[gnu::always_inline]] static V read(const F* p) {
    V x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  [[gnu::always_inline]] static void write(F* p, V x) { __builtin_memcpy(p, &x, sizeof(x)); }

  [[gnu::always_inline]] static Words read_words(const Word* p) {
    Words x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }

  // acc[lane] += the sum of the products of b[lane] and a.
  [[gnu::always_inline]] static void multiply_add(V& acc, Words b, Word a) {
    if constexpr (dot) {
#if defined(__AVX512BF16__)
      acc = (V)_mm512_dpbf16_ps((__m512)acc, (__m512bh)b, (__m512bh)_mm512_set1_epi32(a));
#endif
    } else {
      acc += b * a;
    }
  }

  // 2^x; 0 or next to it far below, whatever x is.
  [[gnu::always_inline]] static V exp2(V x) {
    if constexpr (N == 1) {
      return __builtin_exp2(x);
    } else {
      return simd_exp2(x);
    }
  }

  // 2^x = 2^n 2^r with n = round(x), |r| <= 1/2; the polynomial errs by 1.6e-7 of the result.
  [[gnu::always_inline]] static V simd_exp2(V x) {
#if defined(__AVX512F__)
    const auto r = (V)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT);
    return (V)_mm512_maskz_scalef_ps(0xffff, (__m512)exp2_fraction(r), (__m512)(x - r));
#else
    x = x < -126.0f ? V{} - 126.0f : x;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves n in the low bits
    const V shifted = x + kRound;
    const auto n = __builtin_bit_cast(simd::Bits<V>, shifted) << 23;
    return exp2_fraction(x - (shifted - kRound)) * __builtin_bit_cast(V, n + (127u << 23));
#endif
  }

  [[gnu::always_inline]] static V exp2_fraction(V r) {
    V p = r * 1.32647273e-3f + 9.67151299e-3f;
    p = p * r + 5.55073358e-2f;
    p = p * r + 2.40222424e-1f;
    p = p * r + 6.93147004e-1f;
    return p * r + 1.0f;
  }

  [[gnu::always_inline]] static F sum(V x) {
    if constexpr (N == 1) {
      return x;
    } else {
      F total = 0;
      for (int i = 0; i < N; ++i) total += x[i];
      return total;
    }
  }

  [[gnu::always_inline]] static F max(V x) {
    if constexpr (N == 1) {
      return x;
    } else {
      F largest = x[0];
      for (int i = 1; i < N; ++i) largest = x[i] > largest ? x[i] : largest;
      return largest;
    }
  }

  // x in the lanes of keys [first, end), `hidden` in the others; lane 0 is `key`.
  [[gnu::always_inline]] static V where_visible(V x, V hidden, int64_t key, int64_t first,
                                                int64_t end) {
    const auto offset = static_cast<uint32_t>(key - first);
    const auto length = static_cast<uint32_t>(end - first);
    if constexpr (N == 1) {
      return offset < length ? x : hidden;
    } else {
      simd::Bits<V> lane;
      NANOCHAT_UNROLL
      for (int i = 0; i < N; ++i) lane[i] = static_cast<uint32_t>(i);
      return lane + offset < simd::Bits<V>{} + length ? x : hidden;
    }
  }

  // Numbers of consecutive columns, in the words of a row or the elements of a tensor.
  [[gnu::always_inline]] static void put_row(void* to, V x) {
    if constexpr (dot) {
#if defined(__AVX512BF16__)
      const auto half = (__m256i)_mm512_cvtneps_pbh((__m512)x);
      __builtin_memcpy(to, &half, sizeof(half));
#endif
    } else {
      __builtin_memcpy(to, &x, sizeof(x));
    }
  }

  // The same, and adds to `sum` what was put.
  [[gnu::always_inline]] static void put_row_and_add(void* to, V x, V& sum) {
    if constexpr (dot) {
#if defined(__AVX512BF16__)
      const auto half = (Words)_mm512_cvtne2ps_pbh(_mm512_setzero_ps(), (__m512)x);
      __builtin_memcpy(to, &half, sizeof(half) / 2);
      multiply_add(sum, half, 0x3f803f80u);  // a pair of ones
#endif
    } else {
      put_row(to, x);
      sum += x;
    }
  }

  // The numbers of two consecutive rows, side by side in a word for each column.
  [[gnu::always_inline]] static void put_pair(Word* to, V even, V odd) {
#if defined(__AVX512BF16__)
    const auto both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    Halves order;
    NANOCHAT_UNROLL
    for (int i = 0; i < 2 * N; ++i) order[i] = static_cast<uint16_t>(i / 2 + i % 2 * N);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16((__m512i)order, both));
#else
    (void)to, (void)even, (void)odd;
#endif
  }
};

// Lanes of a and b in turn: of their lower halves, of their upper halves.
template <typename Vector, int... i>
Vector zip_low(Vector a, Vector b, std::integer_sequence<int, i...>) {
  constexpr int kSize = sizeof...(i);
  return __builtin_shufflevector(a, b, (i / 2 + i % 2 * kSize)...);
}

template <typename Vector, int... i>
Vector zip_high(Vector a, Vector b, std::integer_sequence<int, i...>) {
  constexpr int kSize = sizeof...(i);
  return __builtin_shufflevector(a, b, (kSize / 2 + i / 2 + i % 2 * kSize)...);
}

}  // namespace
}  // namespace nanochat::attention
