// Products and the forms of a matrix that they take.
//
//   rows         [row][word of D]                as in memory; left side, one word for all lanes
//   transposed   [word of D][row]                right side of q k^T
//   paired       [word of rows][D]               right side of p v, where rows are summed over
//
// A tile of 6 rows and up to 4 registers of columns stays in registers over the whole depth: 24
// accumulators with AVX-512, 12 below. Rows come in sixes, filled up with zeros.
#pragma once

#include "attention/cpu/lanes.h"
#include "common/tensor_view.h"

namespace nanochat::attention {
namespace {

inline constexpr int kRows = 6;   // of a tile
inline constexpr int kSpan = 96;  // keys, and queries, of a block: whole tiles, whole registers
static_assert(kSpan % kRows == 0 && kSpan % 32 == 0);

inline constexpr double kLog2E = 1.4426950408889634;  // weights are powers of two

[[nodiscard]] constexpr int64_t round_up(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}

template <typename T, int N, bool dot>
struct Tiles : Lanes<T, N, dot> {
  using Base = Lanes<T, N, dot>;
  using Base::kPerWord;
  using typename Base::F, typename Base::V, typename Base::Word, typename Base::Words;
  static constexpr int kVectors = N == 16 ? 4 : 2;  // registers of columns in a tile

  struct Widths {
    int64_t D;
    int64_t depth;   // words of a row
    int64_t words;   // the same, filled up
    int64_t floats;  // elements of a row, filled up
    explicit Widths(int64_t head_dim)
        : D(head_dim), depth(D / kPerWord), words(round_up(depth, N)), floats(words * kPerWord) {}
  };

  // out (kRows, num_columns) = a b, or out += a b: out[r][c] = sum over k < depth of
  // a[r a_row + k a_step] b[k b_row + c]. Whole registers of columns.
  template <bool accumulates>
  static void multiply(F* out, int64_t out_row, int64_t num_columns, const Word* a, int64_t a_row,
                       int64_t a_step, const Word* b, int64_t b_row, int64_t depth) {
    for (int64_t column = 0; column < num_columns;) {
      const int64_t left = (num_columns - column) / N, panels = (left + kVectors - 1) / kVectors;
      const int64_t vectors = (left + panels - 1) / panels;  // panels of nearly equal width
      const auto call = [&](auto width) {
        tile<decltype(width)::value, accumulates>(out + column, out_row, a, a_row, a_step,
                                                  b + column, b_row, depth);
      };
      if (vectors == 1) call(std::integral_constant<int, 1>{});
      if (vectors == 2) call(std::integral_constant<int, 2>{});
      if constexpr (kVectors == 4) {
        if (vectors == 3) call(std::integral_constant<int, 3>{});
        if (vectors == 4) call(std::integral_constant<int, 4>{});
      }
      column += vectors * N;
    }
  }

  // A function of its own, so that all registers are its own.
  template <int vectors, bool accumulates>
  [[gnu::noinline]] static void tile(F* out, int64_t out_row, const Word* a, int64_t a_row,
                                     int64_t a_step, const Word* b, int64_t b_row, int64_t depth) {
    V acc[kRows][vectors] = {};
    if constexpr (accumulates) {
      NANOCHAT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        NANOCHAT_UNROLL
        for (int v = 0; v < vectors; ++v) acc[r][v] = Base::read(out + r * out_row + v * N);
      }
    }
    for (int64_t k = 0; k < depth; ++k, a += a_step, b += b_row) {
      Words columns[vectors];
      NANOCHAT_UNROLL
      for (int v = 0; v < vectors; ++v) columns[v] = Base::read_words(b + v * N);
      NANOCHAT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Word x = a[r * a_row];
        NANOCHAT_UNROLL
        for (int v = 0; v < vectors; ++v) Base::multiply_add(acc[r][v], columns[v], x);
      }
    }
    NANOCHAT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      NANOCHAT_UNROLL
      for (int v = 0; v < vectors; ++v) Base::write(out + r * out_row + v * N, acc[r][v]);
    }
  }

  // Element rows of one head of one batch entry.
  struct Head {
    T* first;
    int64_t stride;
    Head(const TensorView& x, int64_t b, int64_t h)
        : first(x.as<T>() + b * x.strides[0] + h * x.strides[2]), stride(x.strides[1]) {}
    [[nodiscard]] T* row(int64_t t) const { return first + t * stride; }
    // Rows are far apart in memory where there are many heads: the processor does not see it
    // coming.
    template <bool to_write>
    void prefetch(int64_t t, int64_t D) const {
      constexpr int64_t kAhead = 12, kLine = 64 / sizeof(T);
      for (int64_t d = 0; d < D; d += kLine) {
        __builtin_prefetch(first + (t + kAhead) * stride + d, to_write);
      }
    }
  };

  // Rows [begin, end) as words, then zeros up to num_rows rows.
  static void pack_rows(const Head& head, int64_t begin, int64_t end, int64_t num_rows, Widths w,
                        Word* to) {
    for (int64_t t = begin; t < end; ++t, to += w.words) {
      const T* const row = head.row(t);
      head.template prefetch<false>(t, w.D);
      if constexpr (dot) {
        int64_t i = 0;
        for (; i + N <= w.depth; i += N) {
          __builtin_memcpy(to + i, row + 2 * i, sizeof(Words));
        }
        for (; i < w.depth; ++i) __builtin_memcpy(to + i, row + 2 * i, sizeof(Word));
      } else {
        simd::for_each_step<typename Base::Row, T>(w.D, [&](auto tag, int64_t d) {
          simd::write(to + d, simd::read<typename decltype(tag)::type>(row + d));
        });
      }
      for (int64_t i = w.depth; i < w.words; ++i) to[i] = 0;
    }
    const int64_t missing = (num_rows - (end - begin)) * w.words;
    if (missing > 0) __builtin_memset(to, 0, static_cast<size_t>(missing) * sizeof(Word));
  }

  // From rows; N x N words at a time, by log2(N) rounds of zipping rows that are N / 2 apart.
  static void transpose(const Word* rows, int64_t num_rows, Widths w, Word* to) {
    for (int64_t r = 0; r < num_rows; r += N) {
      for (int64_t i = 0; i < w.words; i += N) {
        Words x[N];
        for (int j = 0; j < N; ++j) x[j] = Base::read_words(rows + (r + j) * w.words + i);
        if constexpr (N > 1) {
          constexpr auto kLanes = std::make_integer_sequence<int, N>{};
          NANOCHAT_UNROLL
          for (int round = 1; round < N; round *= 2) {
            Words y[N];
            NANOCHAT_UNROLL
            for (int j = 0; j < N / 2; ++j) {
              y[2 * j] = zip_low(x[j], x[j + N / 2], kLanes);
              y[2 * j + 1] = zip_high(x[j], x[j + N / 2], kLanes);
            }
            NANOCHAT_UNROLL
            for (int j = 0; j < N; ++j) x[j] = y[j];
          }
        }
        for (int j = 0; j < N; ++j) {
          __builtin_memcpy(to + (i + j) * num_rows + r, &x[j], sizeof(x[j]));
        }
      }
    }
  }

  // From rows; the rows themselves where a word is one number, else written to `room`.
  static const Word* paired(const Word* rows, int64_t num_rows, Widths w, Word* room) {
    if constexpr (!dot) {
      return rows;
    } else {
      constexpr auto kLanes = std::make_integer_sequence<int, 2 * N>{};
      for (int64_t r = 0; r < num_rows; r += 2) {
        Word* const to = room + r / 2 * w.floats;
        for (int64_t i = 0; i < w.words; i += N) {
          typename Base::Halves even, odd;
          __builtin_memcpy(&even, rows + r * w.words + i, sizeof(even));
          __builtin_memcpy(&odd, rows + (r + 1) * w.words + i, sizeof(odd));
          const auto low = zip_low(even, odd, kLanes), high = zip_high(even, odd, kLanes);
          __builtin_memcpy(to + 2 * i, &low, sizeof(low));
          __builtin_memcpy(to + 2 * i + N, &high, sizeof(high));
        }
      }
      return room;
    }
  }

  static void write_row(T* to, const F* from, F factor, int64_t D) {
    int64_t d = 0;
    if constexpr (dot) {
      for (; d + N <= D; d += N) Base::put_row(to + d, Base::read(from + d) * factor);
    }
    simd::for_each_step<typename Base::Row, T>(D - d, [&](auto tag, int64_t i) {
      simd::write(to + d + i, simd::read<typename decltype(tag)::type>(from + d + i) * factor);
    });
  }

  // Hands out pieces of a thread's scratch, each at the start of a line of the processor.
  struct Scratch {
    uintptr_t next;
    explicit Scratch(char* begin) : next(reinterpret_cast<uintptr_t>(begin)) {}
    template <typename Element>
    Element* take(int64_t n) {
      auto* const piece = reinterpret_cast<Element*>(next);
      next += static_cast<uintptr_t>(round_up(n * static_cast<int64_t>(sizeof(Element)), 64));
      return piece;
    }
  };
};

// Keys that query i sees: [first_key(i), i].
[[nodiscard]] inline int64_t first_key(int64_t i, int64_t window) {
  return i > window ? i - window : 0;
}

}  // namespace
}  // namespace nanochat::attention
