// Attention of a few queries over pages: all scores, one softmax, all values. Scores of 16 keys
// come out of a product side by side; values are added key by key. Two passes need no bound on the
// scores and no second look at what was added.
#pragma once

#include "common/vector_math.h"
#include "engine/cpu/product_loops.h"
#include "engine/model.h"

namespace nanochat::engine {
namespace {

template <int N, bool dot, Precision precision>
struct AttentionLoops : ProductLoops<N, dot, precision> {
  using Base = ProductLoops<N, dot, precision>;
  using Base::broadcast, Base::even, Base::kHalf, Base::kMaxRows, Base::odd, Base::put_input,
      Base::words;
  using typename Base::Cached, typename Base::Input, typename Base::V, typename Base::Words;

  static void attend(const AttendTask& task) {
    const int64_t end = task.first_position + task.num_queries;  // of the keys
    const int64_t begin = task.window < 0 || task.first_position < task.window
                              ? 0
                              : task.first_position - task.window;
    const int64_t first_page = begin / kPageTokens;
    const int64_t stride = ((end - 1) / kPageTokens + 1 - first_page) * kPageTokens;
    float* const scores = task.scratch;  // (num_queries, stride), of keys from first_page on
    float sums[kMaxQueries];
    Base::template for_each_tile<kMaxRows>(task.num_queries, [&](auto rows, int64_t r) {
      score<decltype(rows)::value>(task, r, first_page, end, scores + r * stride, stride);
    });
    for (int r = 0; r < task.num_queries; ++r) {
      const int64_t position = task.first_position + r;
      const int64_t low = task.window < 0 || position < task.window ? 0 : position - task.window;
      const int64_t offset = first_page * kPageTokens;
      sums[r] = softmax(scores + r * stride, low - offset, position + 1 - offset, end - offset,
                        task.scale);
    }
    constexpr int kRows = N == 16 ? 4 : 2;  // queries that share a pass over the values
    int r = 0;
    for (; r + kRows <= task.num_queries; r += kRows) {
      add_values<kRows>(task, r, begin, end, first_page, scores, stride, sums);
    }
    for (; r < task.num_queries; ++r) {
      add_values<1>(task, r, begin, end, first_page, scores, stride, sums);
    }
  }

  template <int rows>
  static void score(const AttendTask& task, int64_t r, int64_t first_page, int64_t end,
                    float* scores, int64_t stride) {
    const int64_t D = task.head_dim;
    const int64_t block_bytes = kBlockColumns * D * static_cast<int64_t>(sizeof(Cached));
    const auto* const queries = static_cast<const Input*>(task.queries) + r * task.query_stride;
    for (int64_t page = first_page; page * kPageTokens < end; ++page) {
      const int64_t left = end - page * kPageTokens;
      const int64_t num_keys = left < kPageTokens ? left : kPageTokens;
      Base::template tiles<rows>(queries, task.query_stride, task.pages[page] + task.keys_offset,
                                 block_bytes, (num_keys + kBlockColumns - 1) / kBlockColumns, D,
                                 scores + (page - first_page) * kPageTokens, stride);
    }
  }

  // Turns the scores of keys [low, high) into exp(scale (score - max)), all others before `end`
  // into 0; returns the sum. Lanes and order follow the absolute position of a key.
  static float softmax(float* scores, int64_t low, int64_t high, int64_t end, float scale) {
    Words lane;
    for (int i = 0; i < N; ++i) lane[i] = static_cast<uint32_t>(i);
    const auto is_visible = [&](int64_t i) {
      return lane + static_cast<uint32_t>(i - low) < Words{} + static_cast<uint32_t>(high - low);
    };
    const V lowest = V{} - 3.0e38f;
    V max_lanes = lowest;
    for (int64_t i = 0; i < end; i += N) {
      const V x = simd::read<V>(scores + i);
      const V visible = is_visible(i) ? x : lowest;
      max_lanes = visible > max_lanes ? visible : max_lanes;
    }
    float max = max_lanes[0];
    for (int i = 1; i < N; ++i) max = max_lanes[i] > max ? max_lanes[i] : max;
    V sum_lanes = {};
    for (int64_t i = 0; i < end; i += N) {
      const V weight = simd::Math::exp((simd::read<V>(scores + i) - max) * scale);
      const V visible = is_visible(i) ? weight : V{};
      simd::write(scores + i, visible);
      sum_lanes += visible;
    }
    float sum = 0;
    for (int i = 0; i < N; ++i) sum += sum_lanes[i];
    return sum;
  }

  // out = values weighted by the scores, over their sum, for queries r .. r + rows - 1.
  template <int rows>
  static void add_values(const AttendTask& task, int r, int64_t begin, int64_t end,
                         int64_t first_page, const float* scores, int64_t stride,
                         const float* sums) {
    constexpr int kAtOnce = rows <= 2 && N == 16 ? 4 : 2;  // loads of a row in flight
    constexpr int kPerLoad = kHalf ? 2 * N : N;            // elements
    constexpr int kStep = kAtOnce * kPerLoad;
    const int64_t D = task.head_dim;
    const float* const weights = scores + r * stride - first_page * kPageTokens;
    int64_t d = 0;
    for (; d + kStep <= D; d += kStep) {
      add_columns<rows, kAtOnce>(task, r, d, begin, end, weights, stride, sums);
    }
    for (; d + kPerLoad <= D; d += kPerLoad) {
      add_columns<rows, 1>(task, r, d, begin, end, weights, stride, sums);
    }
    for (; d < D; ++d) {
      for (int i = 0; i < rows; ++i) {
        float acc = 0;
        for (int64_t key = begin; key < end; ++key) {
          const char* const values = task.pages[key / kPageTokens] + task.values_offset;
          const auto* const row = reinterpret_cast<const Cached*>(values) + key % kPageTokens * D;
          acc += weights[i * stride + key] * load(row[d]);
        }
        put_input(output(task, r + i) + d, acc / sums[r + i]);
      }
    }
  }

  static Input* output(const AttendTask& task, int r) {
    return static_cast<Input*>(task.out) + r * task.out_stride;
  }

  template <int rows, int loads>
  static void add_columns(const AttendTask& task, int r, int64_t d, int64_t begin, int64_t end,
                          const float* weights, int64_t stride, const float* sums) {
    constexpr int kParts = kHalf ? 2 : 1;  // even and odd elements of a load
    const int64_t D = task.head_dim;
    V acc[rows][loads][kParts] = {};
    for (int64_t key = begin; key < end;) {
      const char* const values = task.pages[key / kPageTokens] + task.values_offset;
      const auto* row = reinterpret_cast<const Cached*>(values) + key % kPageTokens * D + d;
      const int64_t page_end = (key / kPageTokens + 1) * kPageTokens;
      const int64_t stop = page_end < end ? page_end : end;
      for (; key < stop; ++key, row += D) {
        NANOCHAT_UNROLL
        for (int l = 0; l < loads; ++l) {
          V part[kParts];
          if constexpr (kHalf) {
            const Words pairs = words(row + l * 2 * N);
            part[0] = even(pairs);
            part[1] = odd(pairs);
          } else {
            part[0] = simd::read<V>(row + l * N);
          }
          NANOCHAT_UNROLL
          for (int i = 0; i < rows; ++i) {
            NANOCHAT_UNROLL
            for (int p = 0; p < kParts; ++p) {
              acc[i][l][p] += part[p] * broadcast(weights[i * stride + key]);
            }
          }
        }
      }
    }
    for (int i = 0; i < rows; ++i) {
      Input* const out = output(task, r + i) + d;
      for (int l = 0; l < loads; ++l) {
        float row[kParts * N];
        for (int lane = 0; lane < N; ++lane) {
          for (int p = 0; p < kParts; ++p) row[lane * kParts + p] = acc[i][l][p][lane];
        }
        for (int p = 0; p < kParts; ++p) {
          put_input(out + (l * kParts + p) * N, simd::read<V>(row + p * N) / sums[r + i]);
        }
      }
    }
  }
};

}  // namespace
}  // namespace nanochat::engine
