// What the loops of one instruction level compute with: vectors, and the types of elements.
//
// The files *_loops.h are included by the file of each level, which is compiled with that level's
// flags. Everything in them is in an anonymous namespace and what they call is inlined, so that no
// code of a higher level is linked into a lower one.
#pragma once

#include "common/simd.h"
#include "engine/cpu/kernels.h"

namespace nanochat::engine {
namespace {

#define NANOCHAT_UNROLL _Pragma("GCC unroll 32")

// N: fp32 lanes of a register. dot: products of bf16 take pairs, those of int8 four bytes.
template <int N, bool dot, Precision precision>
struct Lanes {
  using V = simd::Vector<N>;
  using Words = typename simd::Types<N>::Bits;
  typedef int32_t Integers __attribute__((vector_size(4 * N)));
  typedef uint8_t Bytes __attribute__((vector_size(N)));
  static constexpr bool kInt8 = precision == Precision::kInt8;
  static constexpr bool kHalf = precision == Precision::kBFloat16 || kInt8;  // keys and values
  static constexpr bool kPairs = kHalf && dot;
  static constexpr bool kQuantizes = kInt8 && dot;
  using Cached = std::conditional_t<kHalf, BFloat16, float>;
  using Input = std::conditional_t<kPairs, BFloat16, float>;
  static V broadcast(float x) { return V{} + x; }
  static Words words(const void* p) {
    Words w;
    __builtin_memcpy(&w, p, sizeof(w));
    return w;
  }
  static V even(Words w) { return __builtin_bit_cast(V, w << 16); }
  static V odd(Words w) { return __builtin_bit_cast(V, w & 0xffff0000u); }

  // A bf16 model rounds inputs of products to bf16 at every level, however it stores them.
  template <typename F>
  static void put_input(Input* to, F x) {
    if constexpr (kHalf && !kPairs) {
      BFloat16 rounded[simd::kIsVector<F> ? N : 1];
      simd::write(rounded, x);
      simd::write(to, simd::read<F>(rounded));
    } else {
      simd::write(to, x);
    }
  }
};

}  // namespace
}  // namespace nanochat::engine
