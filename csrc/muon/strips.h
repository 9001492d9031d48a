// Products of matrices in strips, on the CPU; the loops of Polar Express.
//
// A matrix M (rows x columns) in strips: vertical ones, as wide as a vector has lanes, one after
// the other. A word holds kPack elements that stand below each other: one fp32, or two bf16, which
// is what the instruction for bf16 multiplies.
//
//        lane  0       1             kLanes - 1
//   word 0   M[0:2,0] M[0:2,1] ... M[0:2,15]      strip 0, then strip 1: columns 16 to 31 ...
//        1   M[2:4,0] M[2:4,1] ...
//
// In this form C = U^T W reads both operands alike: a step over words k adds
// U[k, i] (one word, to all lanes) times W[k, j .. j + kLanes] to C[i, j ..]. Everything is such a
// product: X X^T of strips of X^T, A A and B X of strips of symmetric A and B, and of X. A tile of
// C leaves the registers as strips of C and of C^T, so nothing is ever transposed in memory, and a
// symmetric C is computed on and above its diagonal only.
//
// A tile is kRows x kStrips vectors: with AVX-512, 8 x 3 of the 32 registers, 24 multiplications
// for 11 loads. Row and column counts are padded with zeros to whole strips.
#pragma once

#include <algorithm>

#include "common/simd.h"

namespace nanochat::muon {

using simd::Bits;

// What a word is and how two of them multiply. Acc is a vector of fp32.
template <typename V>
struct Fp32Words {
  using Word = float;
  using Words = V;  // a vector of words
  using Acc = V;
  static constexpr int kPack = 1;
  static constexpr int kLanes = simd::kLanes<V>;
  static constexpr int kRows = std::max(4, kLanes / 2);

  NANOCHAT_HD static Acc multiply_add(Acc c, float u, Words w) { return c + u * w; }
  NANOCHAT_HD static Words pack(const Acc* rows) { return rows[0]; }
  NANOCHAT_HD static void unpack(const Words& words, Acc* rows) { rows[0] = words; }
  NANOCHAT_HD static void pack_row(const Acc& row, float* words) {
    std::memcpy(words, &row, sizeof(row));
  }
};

// bf16 without an instruction for it: both halves of a word become fp32.
template <typename V>
struct Bf16Words {
  using Word = uint32_t;
  using Words = Bits<V>;
  using Acc = V;
  static constexpr int kPack = 2;
  static constexpr int kLanes = simd::kLanes<V>;
  static constexpr int kRows = std::max(4, kLanes / 2);

  NANOCHAT_HD static Acc multiply_add(Acc c, uint32_t u, Words w) {
    c += std::bit_cast<float>(u << 16) * std::bit_cast<V>(w << 16);
    return c + std::bit_cast<float>(u & 0xffff0000u) * std::bit_cast<V>(w & 0xffff0000u);
  }
  NANOCHAT_HD static Words pack(const Acc* rows) {
    return rounded(rows[0]) >> 16 | (rounded(rows[1]) & 0xffff0000u);
  }
  NANOCHAT_HD static void unpack(const Words& words, Acc* rows) {
    rows[0] = std::bit_cast<V>(words << 16);
    rows[1] = std::bit_cast<V>(words & 0xffff0000u);
  }
  NANOCHAT_HD static void pack_row(const Acc& row, uint32_t* words) {
    simd::write<V>(reinterpret_cast<BFloat16*>(words), row);
  }

  // fp32 rounded to nearest, ties to even, in the upper half of the bits; NaN stays NaN.
  NANOCHAT_HD static Words rounded(const Acc& x) {
    const auto bits = std::bit_cast<Words>(x);
    return x == x ? bits + 0x7fffu + (bits >> 16 & 1u) : bits | 0x400000u;
  }
};

#if defined(__x86_64__)
// vdpbf16ps, as assembly: GCC takes its intrinsic only inside a function of that target, and this
// one is inlined into such. It flushes subnormal numbers.
template <typename V>
struct Bf16Dots : Bf16Words<V> {
  using typename Bf16Words<V>::Words;
  NANOCHAT_HD static V multiply_add(V c, uint32_t u, Words w) {
    const Words all = Words{} + u;
    asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(all), "v"(w));
    return c;
  }
};
#endif

// Strips of a matrix with `depth` words below each other.
template <typename A>
struct Strips {
  typename A::Word* data;
  int64_t depth;

  NANOCHAT_HD typename A::Word* at(int64_t strip, int64_t word) const {
    return data + (strip * depth + word) * A::kLanes;
  }
  NANOCHAT_HD typename A::Words load(int64_t strip, int64_t word) const {
    typename A::Words words;
    std::memcpy(&words, at(strip, word), sizeof(words));
    return words;
  }
  NANOCHAT_HD void store(int64_t strip, int64_t word, const typename A::Words& words) const {
    std::memcpy(at(strip, word), &words, sizeof(words));
  }
};

[[nodiscard]] constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// A tile's rows i .. i + kRows of one strip into strips of the matrix.
template <typename A>
NANOCHAT_HD void store_straight(const typename A::Acc* rows, const Strips<A>& out, int64_t strip,
                                int64_t i) {
#pragma GCC unroll 8
  for (int r = 0; r < A::kRows; r += A::kPack) {
    out.store(strip, (i + r) / A::kPack, A::pack(rows + r));
  }
}

// The same rows into strips of the transpose, where they are kRows lanes of strip i / kLanes.
template <typename A>
NANOCHAT_HD void store_transposed(const typename A::Acc* rows, const Strips<A>& out, int64_t strip,
                                  int64_t i) {
  constexpr int kWords = A::kLanes / A::kPack;
  typename A::Word words[A::kRows][kWords];
#pragma GCC unroll 8
  for (int r = 0; r < A::kRows; ++r) A::pack_row(rows[r], words[r]);
  typename A::Word* first = out.at(i / A::kLanes, strip * kWords) + i % A::kLanes;
#pragma GCC unroll 16
  for (int w = 0; w < kWords; ++w) {
#pragma GCC unroll 8
    for (int r = 0; r < A::kRows; ++r) first[w * A::kLanes + r] = words[r][w];
  }
}

// C = scale U^T W + beta E. E has the shape of C.
template <typename A>
struct Product {
  Strips<A> u, w;
  Strips<A> e{};             // not read if beta is 0
  Strips<A> c;               // out: strips of C
  Strips<A> c_transposed{};  // out: strips of C^T; c if C is symmetric
  int64_t num_rows = 0;      // of C, a multiple of kLanes
  int64_t num_strips = 0;    // of C
  float scale = 1.0f;
  float beta = 0.0f;
  bool is_symmetric = false;  // C is computed on and above the diagonal
};

inline constexpr int kStripsPerTile = 3;

template <typename A, int kStrips>
NANOCHAT_HD void tile(const Product<A>& p, int64_t i, int64_t strip) {
  constexpr int kRows = A::kRows, kLanes = A::kLanes;
  using Words = typename A::Words;
  typename A::Acc c[kStrips][kRows] = {};
  const typename A::Word* u = p.u.at(i / kLanes, 0) + i % kLanes;
  const typename A::Word* w = p.w.at(strip, 0);
  const int64_t to_next = p.w.depth * kLanes;  // strip
  for (int64_t k = 0; k < p.w.depth; ++k, u += kLanes, w += kLanes) {
    Words words[kStrips];
#pragma GCC unroll 3
    for (int s = 0; s < kStrips; ++s) std::memcpy(&words[s], w + s * to_next, sizeof(Words));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
      for (int s = 0; s < kStrips; ++s) c[s][r] = A::multiply_add(c[s][r], u[r], words[s]);
    }
  }
#pragma GCC unroll 3
  for (int s = 0; s < kStrips; ++s) {
    typename A::Acc rows[kRows];  // apart from c, which stays in registers if nobody points to it
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r += A::kPack) {
      typename A::Acc e[A::kPack] = {};
      if (p.beta != 0.0f) A::unpack(p.e.load(strip + s, (i + r) / A::kPack), e);
#pragma GCC unroll 2
      for (int h = 0; h < A::kPack; ++h) rows[r + h] = p.scale * c[s][r + h] + p.beta * e[h];
    }
    store_straight<A>(rows, p.c, strip + s, i);
    if (!p.is_symmetric || strip + s > i / kLanes) {
      store_transposed<A>(rows, p.c_transposed, strip + s, i);
    }
  }
}

[[nodiscard]] constexpr int64_t num_tile_columns(int64_t num_strips) {
  return (num_strips + kStripsPerTile - 1) / kStripsPerTile;
}

// The tiles of one column of them: their strips of W stay in L2 while the rows go by.
template <typename A>
NANOCHAT_HD void multiply_column(const Product<A>& p, int64_t column) {
  const int64_t begin = column * kStripsPerTile;
  const int64_t end = std::min(begin + kStripsPerTile, p.num_strips);
  const int64_t num_rows = p.is_symmetric ? end * A::kLanes : p.num_rows;
  for (int64_t i = 0; i < num_rows; i += A::kRows) {
    const int64_t first = p.is_symmetric ? std::max(begin, i / A::kLanes) : begin;
    switch (end - first) {
      case 3:
        tile<A, 3>(p, i, first);
        break;
      case 2:
        tile<A, 2>(p, i, first);
        break;
      default:
        tile<A, 1>(p, i, first);
    }
  }
}

}  // namespace nanochat::muon
