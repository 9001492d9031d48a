// Forward. A block of queries meets one block of keys after the other; six queries at a time go
// through scores, softmax and values, so that their scores stay in L1 all the way.
//
//             keys, kSpan each
//   queries   | all | diag|                      keys and values are packed once for a head, on
//   kSpan     | all | all | diag|                each thread; six queries skip the keys that none
//             | edge| all | all | diag|          of them sees: a window of w costs w keys, not T
//
// Scores that are known to be bounded need no maximum: exp(40) and a sum of many of them are far
// from the largest fp32, and a weight keeps all digits that subtracting a bound would take from its
// exponent. Without a bound the row maximum is found by a pass of its own, so nothing is ever
// rescaled.
#pragma once

#include "attention/attention.h"
#include "attention/cpu/tiles.h"

namespace nanochat::attention {
namespace {

template <typename T, int N, bool dot>
struct ForwardLoops : Tiles<T, N, dot> {
  using Base = Tiles<T, N, dot>;
  using Base::kPerWord;
  using typename Base::F, typename Base::Head, typename Base::Scratch, typename Base::V,
      typename Base::Widths, typename Base::Word;

  // What a thread holds: one head of keys and values, one block of queries.
  struct Block {
    Widths w;
    int64_t num_spans;  // of keys
    Word* rows;         // [kSpan][words] on the way to the next two
    Word* keys;         // [span][words][kSpan]
    Word* values;       // [span][kSpan / kPerWord][floats]
    Word* queries;      // [kSpan][words]
    F* scores;          // [kRows][kSpan]
    Word* weights;      // [kRows][kSpan / kPerWord]
    F* out;             // [kSpan][floats]
    V* sums;            // [kSpan] of weights
    V* rounded_sums;    // [kSpan] of weights as they meet the values
    F* maxima;          // [kSpan] of scaled scores, to base 2; 0 where scores are bounded
    int64_t bytes;

    Block(int64_t num_tokens, int64_t D, char* scratch)
        : w(D), num_spans((num_tokens + kSpan - 1) / kSpan) {
      Scratch room(scratch);
      const int64_t span_words = kSpan * w.words;
      rows = room.template take<Word>(span_words);
      keys = room.template take<Word>(num_spans * span_words);
      values = room.template take<Word>(num_spans * span_words);
      queries = room.template take<Word>(span_words);
      scores = room.template take<F>(kRows * kSpan);
      weights = room.template take<Word>(kRows * kSpan / kPerWord);
      out = room.template take<F>(kSpan * w.floats);
      sums = room.template take<V>(kSpan);
      rounded_sums = room.template take<V>(kSpan);
      maxima = room.template take<F>(kSpan);
      bytes = static_cast<int64_t>(room.next - reinterpret_cast<uintptr_t>(scratch));
    }
  };

  static int64_t scratch_bytes(int64_t num_tokens, int64_t D) {
    return Block(num_tokens, D, nullptr).bytes;
  }

  // Blocks of queries [begin, end), counted through (batch, head, block).
  static void run(const Forward& p, int64_t begin, int64_t end, char* scratch) {
    const int64_t num_tokens = p.q.sizes[1], H = p.q.sizes[2], Hkv = p.k.sizes[2];
    Block block(num_tokens, p.q.sizes[3], scratch);
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t span = i % block.num_spans, h = i / block.num_spans % H;
      const int64_t b = i / block.num_spans / H, kv = h / (H / Hkv);
      if (packed != b * Hkv + kv) {
        pack_head(Head(p.k, b, kv), Head(p.v, b, kv), num_tokens, block);
        packed = b * Hkv + kv;
      }
      attend(p, b, h, span * kSpan, block);
    }
  }

  static void pack_head(const Head& k, const Head& v, int64_t num_tokens, const Block& block) {
    for (int64_t span = 0; span < block.num_spans; ++span) {
      const int64_t begin = span * kSpan,
                    end = begin + kSpan < num_tokens ? begin + kSpan : num_tokens;
      const int64_t at = span * kSpan * block.w.words;
      Base::pack_rows(k, begin, end, kSpan, block.w, block.rows);
      Base::transpose(block.rows, kSpan, block.w, block.keys + at);
      Base::pack_rows(v, begin, end, kSpan, block.w, dot ? block.rows : block.values + at);
      if constexpr (dot) Base::paired(block.rows, kSpan, block.w, block.values + at);
    }
  }

  static void attend(const Forward& p, int64_t b, int64_t h, int64_t first, const Block& block) {
    const int64_t num_tokens = p.q.sizes[1];
    const int64_t num_queries = first + kSpan < num_tokens ? kSpan : num_tokens - first;
    const Widths& w = block.w;
    Base::pack_rows(Head(p.q, b, h), first, first + num_queries, round_up(num_queries, kRows), w,
                    block.queries);
    for (int64_t r = 0; r < kSpan; ++r) {
      block.sums[r] = block.rounded_sums[r] = V{};
      block.maxima[r] = 0;
    }
    __builtin_memset(block.out, 0, static_cast<size_t>(kSpan * w.floats) * sizeof(F));
    if (p.score_bound == 0) find_maxima(p, first, num_queries, block);
    for_each_meeting(p, first, num_queries,
                     [&](const Meeting& meeting) { add_values(p, meeting, block); });

    const Head out(p.out, b, h);
    F* const lse = p.lse.as<F>() + (b * p.q.sizes[2] + h) * num_tokens + first;
    for (int64_t r = 0; r < num_queries; ++r) {
      const F sum = Base::sum(block.sums[r]), rounded_sum = Base::sum(block.rounded_sums[r]);
      Base::write_row(out.row(first + r), block.out + r * w.floats, 1 / rounded_sum, w.D);
      lse[r] = (block.maxima[r] + static_cast<F>(__builtin_log2(static_cast<double>(sum)))) *
               static_cast<F>(1 / kLog2E);
    }
  }

  // Six queries and the keys of one span that any of them sees.
  struct Meeting {
    int64_t r;           // of the first query in its block
    int64_t query;       // its position
    int64_t span;        // of the keys
    int64_t begin, end;  // in the span, whole registers
  };

  template <typename Body>
  static void for_each_meeting(const Forward& p, int64_t first, int64_t num_queries,
                               const Body& body) {
    const int64_t last_span = (first + num_queries - 1) / kSpan;
    for (int64_t span = first_key(first, p.window) / kSpan; span <= last_span; ++span) {
      for (int64_t r = 0; r < num_queries; r += kRows) {
        const int64_t low = first_key(first + r, p.window) - span * kSpan;
        const int64_t high = first + r + kRows - span * kSpan;
        const int64_t begin = low > 0 ? low / N * N : 0;
        const int64_t end = high < kSpan ? round_up(high, N) : kSpan;
        if (begin < end) body(Meeting{r, first + r, span, begin, end});
      }
    }
  }

  // Scores of a meeting, unscaled, then body(masked, column, row of scores, row) for each register.
  template <typename Body>
  static void score(const Forward& p, const Meeting& m, const Block& block, const Body& body) {
    const Widths& w = block.w;
    const int64_t first = m.span * kSpan;  // of the keys
    Base::template multiply<false>(block.scores + m.begin, kSpan, m.end - m.begin,
                                   block.queries + m.r * w.words, w.words, 1,
                                   block.keys + first * w.words + m.begin, kSpan, w.depth);
    for (int64_t column = m.begin; column < m.end; column += N) {
      const int64_t key = first + column;
      const auto rows = [&](auto masked) NANOCHAT_INLINE_LAMBDA {
        NANOCHAT_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const int64_t i = m.query + r;
          const V x = Base::read(block.scores + r * kSpan + column);
          body(r, column, x, [&](V y, V hidden) NANOCHAT_INLINE_LAMBDA {
            if constexpr (!decltype(masked)::value) return y;
            return Base::where_visible(y, hidden, key, first_key(i, p.window), i + 1);
          });
        }
      };
      const bool is_edge = key + N - 1 > m.query || key < first_key(m.query + kRows - 1, p.window);
      is_edge ? rows(std::true_type{}) : rows(std::false_type{});
    }
  }

  static void find_maxima(const Forward& p, int64_t first, int64_t num_queries,
                          const Block& block) {
    const V lowest = V{} - static_cast<F>(3.0e38);
    for (int64_t r = 0; r < kSpan; ++r) block.sums[r] = lowest;
    for_each_meeting(p, first, num_queries, [&](const Meeting& m) {
      score(p, m, block, [&](int r, int64_t, V x, const auto& visible) NANOCHAT_INLINE_LAMBDA {
        const V seen = visible(x, lowest);
        V& max = block.sums[m.r + r];
        max = seen > max ? seen : max;
      });
    });
    for (int64_t r = 0; r < kSpan; ++r) {
      block.maxima[r] = Base::max(block.sums[r]) * static_cast<F>(p.scale * kLog2E);
      block.sums[r] = V{};
    }
  }

  static void add_values(const Forward& p, const Meeting& m, const Block& block) {
    constexpr int64_t kWeightsRow = kSpan / kPerWord;
    const F scale = static_cast<F>(p.scale * kLog2E);
    const Widths& w = block.w;
    score(p, m, block, [&](int r, int64_t column, V x, const auto& visible) NANOCHAT_INLINE_LAMBDA {
      const V weight = visible(Base::exp2(x * scale - block.maxima[m.r + r]), V{});
      block.sums[m.r + r] += weight;
      Base::put_row_and_add(block.weights + r * kWeightsRow + column / kPerWord, weight,
                            block.rounded_sums[m.r + r]);
    });
    const Word* const values =
        block.values + m.span * kSpan * w.words + m.begin / kPerWord * w.floats;
    Base::template multiply<true>(block.out + m.r * w.floats, w.floats, w.floats,
                                  block.weights + m.begin / kPerWord, kWeightsRow, 1, values,
                                  w.floats, (m.end - m.begin) / kPerWord);
  }
};

}  // namespace
}  // namespace nanochat::attention
