// Backward, five products for each pair of a query and a key that it sees:
//
//   s = q k^T    dp = dout v^T    dv += p^T dout    dk += ds^T q    dq += ds k
//
// A head's keys are taken kSpan at a time. What they need stays in L1 or L2 while the queries that
// see them go by, kSpan at a time, and for those the first two products and dq six queries at a
// time, the other two six keys at a time. dk and dv of a head of keys are summed over the query
// heads that share it, in order; a thread takes whole heads of keys, so nothing is ever raced for.
// On their way out rows of dq and dk become gradients of what the pre-pass took.
#pragma once

#include "attention/attention.h"
#include "attention/cpu/tiles.h"
#include "attention/prepass_row_cpu.h"

namespace nanochat::attention {
namespace {

template <typename T, int N, bool dot>
struct BackwardLoops : Tiles<T, N, dot> {
  using Base = Tiles<T, N, dot>;
  using Base::kPerWord;
  using typename Base::F, typename Base::Head, typename Base::Scratch, typename Base::V,
      typename Base::Widths, typename Base::Word;

  struct Block {
    Widths w;
    int64_t num_rows;  // T, filled up to whole spans
    // Of a query head.
    Word *q_rows, *dout_rows;  // [num_rows][words]
    Word *q_room, *dout_room;  // for the pairs
    const Word *q, *dout;      // [num_rows / kPerWord][floats], paired
    F *lse, *delta;            // [num_rows], lse to base 2
    F* dq;                     // [num_rows][floats]
    // Of a head of keys.
    F *dk, *dv;  // [num_rows][floats]
    // Of a span of keys.
    Word* rows;       // [kSpan][words], on the way to the next three
    Word* keys;       // [words][kSpan]
    Word* values;     // [words][kSpan]
    Word* keys_room;  // [kSpan / kPerWord][floats]
    const Word* keys_paired;
    // Of a span of queries and one of keys, of weights and of gradients of scores.
    Word *p, *ds;  // [kSpan / kPerWord][kSpan]
    // Of six queries and a span of keys.
    F *s, *dp;      // [kRows][kSpan]
    Word* ds_rows;  // [kRows][kSpan / kPerWord]
    int64_t bytes;

    Block(int64_t num_tokens, int64_t D, char* scratch)
        : w(D), num_rows(round_up(num_tokens, kSpan)) {
      Scratch room(scratch);
      const int64_t words = num_rows * w.words, floats = num_rows * w.floats;
      const auto take_words = [&](int64_t n) { return room.template take<Word>(n); };
      const auto take = [&](int64_t n) { return room.template take<F>(n); };
      q_rows = take_words(words), dout_rows = take_words(words);
      q_room = take_words(dot ? words : 0), dout_room = take_words(dot ? words : 0);
      q = dout = nullptr;
      lse = take(num_rows), delta = take(num_rows);
      dq = take(floats), dk = take(floats), dv = take(floats);
      rows = take_words(kSpan * w.words);
      keys = take_words(kSpan * w.words), values = take_words(kSpan * w.words);
      keys_room = take_words(dot ? kSpan * w.words : 0);
      keys_paired = nullptr;
      p = take_words(kSpan * kSpan / kPerWord), ds = take_words(kSpan * kSpan / kPerWord);
      s = take(kRows * kSpan), dp = take(kRows * kSpan);
      ds_rows = take_words(kRows * kSpan / kPerWord);
      bytes = static_cast<int64_t>(room.next - reinterpret_cast<uintptr_t>(scratch));
    }
  };

  static int64_t scratch_bytes(int64_t num_tokens, int64_t D) {
    return Block(num_tokens, D, nullptr).bytes;
  }

  // Heads of keys [begin, end), counted through (batch, head).
  static void run(const Backward& p, int64_t begin, int64_t end, char* scratch) {
    const int64_t num_tokens = p.q.sizes[1], H = p.q.sizes[2], Hkv = p.k.sizes[2], group = H / Hkv;
    Block block(num_tokens, p.q.sizes[3], scratch);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / Hkv, kv = i % Hkv;
      clear(block.dk, block);
      clear(block.dv, block);
      for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
        pack_queries(p, b, h, block);
        clear(block.dq, block);
        for (int64_t key = 0; key < num_tokens; key += kSpan) {
          pack_keys(p, b, kv, key, block);
          for (int64_t query = key; query < num_tokens && first_key(query, p.window) < key + kSpan;
               query += kSpan) {
            meet(p, query, key, block);
          }
        }
        write_raw(p, p.q, p.rope_norm.q_inv_rms, p.dq, b, h, block.dq, block.w);
      }
      write_raw(p, p.k, p.rope_norm.k_inv_rms, p.dk, b, kv, block.dk, block.w);
      write(p.dv, b, kv, block.dv, block.w);
    }
  }

  static void clear(F* x, const Block& block) {
    __builtin_memset(x, 0, static_cast<size_t>(block.num_rows * block.w.floats) * sizeof(F));
  }

  static void write(const TensorView& to, int64_t b, int64_t h, const F* from, const Widths& w) {
    const Head head(to, b, h);
    for (int64_t t = 0; t < to.sizes[1]; ++t) {
      head.template prefetch<true>(t, w.D);
      Base::write_row(head.row(t), from + t * w.floats, F{1}, w.D);
    }
  }

  // Of gradients of `normed` rows, to p.scale, those of the raw ones.
  static void write_raw(const Backward& p, const TensorView& normed, const TensorView& inv_rms,
                        const TensorView& to, int64_t b, int64_t h, const F* from,
                        const Widths& w) {
    const Head head(to, b, h), y(normed, b, h);
    const F g = static_cast<F>(p.rope_norm.qk_scale), scale = g * static_cast<F>(p.scale),
            factor = projection_factor(g, w.D);
    for (int64_t t = 0; t < to.sizes[1]; ++t) {
      head.template prefetch<true>(t, w.D);
      y.template prefetch<false>(t, w.D);
      rope_norm_backward_row<typename Base::Row>(
          from + t * w.floats, y.row(t), at<const float>(p.rope_norm.cos, b, t),
          at<const float>(p.rope_norm.sin, b, t), head.row(t), w.D, factor,
          scale * *at<const F>(inv_rms, b, t, h));
    }
  }

  static void pack_queries(const Backward& p, int64_t b, int64_t h, Block& block) {
    const int64_t num_tokens = p.q.sizes[1], first = (b * p.q.sizes[2] + h) * num_tokens;
    const Widths& w = block.w;
    Base::pack_rows(Head(p.q, b, h), 0, num_tokens, block.num_rows, w, block.q_rows);
    Base::pack_rows(Head(p.dout, b, h), 0, num_tokens, block.num_rows, w, block.dout_rows);
    block.q = Base::paired(block.q_rows, block.num_rows, w, block.q_room);
    block.dout = Base::paired(block.dout_rows, block.num_rows, w, block.dout_room);
    const Head out(p.out, b, h), dout(p.dout, b, h);
    for (int64_t t = 0; t < num_tokens; ++t) {
      simd::RowSum<typename Base::Row, F> delta;
      simd::for_each_step<typename Base::Row, T>(w.D, [&](auto tag, int64_t d) {
        using Step = typename decltype(tag)::type;
        delta.add(simd::read<Step>(out.row(t) + d) * simd::read<Step>(dout.row(t) + d));
      });
      p.delta.as<F>()[first + t] = block.delta[t] = delta.total();
      block.lse[t] = p.lse.as<const F>()[first + t] * static_cast<F>(kLog2E);
    }
    for (int64_t t = num_tokens; t < block.num_rows; ++t) block.lse[t] = block.delta[t] = 0;
  }

  static void pack_keys(const Backward& p, int64_t b, int64_t kv, int64_t key, Block& block) {
    const int64_t num_tokens = p.q.sizes[1],
                  end = key + kSpan < num_tokens ? key + kSpan : num_tokens;
    const Widths& w = block.w;
    Base::pack_rows(Head(p.v, b, kv), key, end, kSpan, w, block.rows);
    Base::transpose(block.rows, kSpan, w, block.values);
    Base::pack_rows(Head(p.k, b, kv), key, end, kSpan, w, block.rows);
    Base::transpose(block.rows, kSpan, w, block.keys);
    block.keys_paired = Base::paired(block.rows, kSpan, w, block.keys_room);
  }

  // Queries from `query` on and keys from `key` on, a span of each.
  static void meet(const Backward& p, int64_t query, int64_t key, const Block& block) {
    const int64_t num_tokens = p.q.sizes[1], f = block.w.floats;
    const int64_t query_end = query + kSpan < num_tokens ? query + kSpan : num_tokens;
    for (int64_t first = query; first < query_end; first += kRows) {
      const int64_t low = first_key(first, p.window) - key, high = first + kRows - key;
      if (low >= kSpan) break;
      const int64_t begin = low > 0 ? low / N * N : 0;
      const int64_t end = high < kSpan ? round_up(high, N) : kSpan;
      weigh(p, first, query, key, begin, end, block);
      Word* const ds = left_rows(block, block.ds + (first - query) / kPerWord * kSpan);
      Base::template multiply<true>(block.dq + first * f, f, f, ds + begin / kPerWord,
                                    kSpan / kPerWord, 1, block.keys_paired + begin / kPerWord * f,
                                    f, (end - begin) / kPerWord);
    }
    // Queries that see key j are j to j + window.
    for (int64_t first = key; first < key + kSpan && first < num_tokens; first += kRows) {
      const int64_t begin = (first > query ? first - query : 0) / kPerWord;
      const int64_t last = first + kRows - 1 + (p.window < num_tokens ? p.window : num_tokens);
      const int64_t end =
          round_up((last + 1 < query_end ? last + 1 : query_end) - query, kPerWord) / kPerWord;
      if (begin >= end) continue;
      const int64_t at = begin * kSpan + first - key, row = (query / kPerWord + begin) * f;
      Base::template multiply<true>(block.dv + first * f, f, f, block.p + at, 1, kSpan,
                                    block.dout + row, f, end - begin);
      Base::template multiply<true>(block.dk + first * f, f, f, block.ds + at, 1, kSpan,
                                    block.q + row, f, end - begin);
    }
  }

  // Rows of p and ds of six queries and keys [begin, end) of the span; zeros for the other keys.
  static void weigh(const Backward& p, int64_t first, int64_t query, int64_t key, int64_t begin,
                    int64_t end, const Block& block) {
    const Widths& w = block.w;
    const F scale = static_cast<F>(p.scale * kLog2E);
    const int64_t at = (first - query) / kPerWord * kSpan;
    Word* const p_pairs = block.p + at;
    Word* const ds_pairs = block.ds + at;
    Word* const ds_rows = left_rows(block, ds_pairs);
    Base::template multiply<false>(block.s + begin, kSpan, end - begin,
                                   block.q_rows + first * w.words, w.words, 1, block.keys + begin,
                                   kSpan, w.depth);
    Base::template multiply<false>(block.dp + begin, kSpan, end - begin,
                                   block.dout_rows + first * w.words, w.words, 1,
                                   block.values + begin, kSpan, w.depth);
    for (int64_t column = begin; column < end; column += N) {
      const auto rows = [&](auto masked) NANOCHAT_INLINE_LAMBDA {
        V weights[kRows], gradients[kRows];
        NANOCHAT_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const int64_t i = first + r, cell = r * kSpan + column;
          V x = Base::exp2(Base::read(block.s + cell) * scale - block.lse[i]);
          if constexpr (decltype(masked)::value) {
            x = Base::where_visible(x, V{}, key + column, first_key(i, p.window), i + 1);
          }
          weights[r] = x;
          gradients[r] = x * (Base::read(block.dp + cell) - block.delta[i]);
          Base::put_row(ds_rows + cell / kPerWord, gradients[r]);
        }
        put_columns(p_pairs + column, weights);
        put_columns(ds_pairs + column, gradients);
      };
      const bool is_edge =
          key + column + N - 1 > first || key + column < first_key(first + kRows - 1, p.window);
      is_edge ? rows(std::true_type{}) : rows(std::false_type{});
    }
    for (Word* const pairs : {p_pairs, ds_pairs}) {
      for (int r = 0; r < kRows / kPerWord; ++r) {
        Word* const row = pairs + r * kSpan;
        __builtin_memset(row, 0, static_cast<size_t>(begin) * sizeof(Word));
        __builtin_memset(row + end, 0, static_cast<size_t>(kSpan - end) * sizeof(Word));
      }
    }
  }

  // Where a word is one number, rows are what pairs are.
  static Word* left_rows(const Block& block, Word* ds_pairs) {
    return dot ? block.ds_rows : ds_pairs;
  }

  // A register of columns of six rows, for use from the left with rows summed over.
  [[gnu::always_inline]] static void put_columns(Word* to, const V (&x)[kRows]) {
    NANOCHAT_UNROLL
    for (int r = 0; r < kRows; r += kPerWord) {
      if constexpr (dot) {
        Base::put_pair(to + r / 2 * kSpan, x[r], x[r + 1]);
      } else {
        Base::put_row(to + r * kSpan, x[r]);
      }
    }
  }
};

}  // namespace
}  // namespace nanochat::attention
