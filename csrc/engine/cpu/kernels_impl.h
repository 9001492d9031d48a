// The loops of kernels.h for one instruction level: included by the file of each level, which is
// compiled with that level's flags. Everything is in an anonymous namespace, and nothing of the
// standard library is instantiated, so that no code of a higher level is linked into a lower one.
#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "common/simd.h"
#include "common/vector_math.h"
#include "engine/cpu/kernels.h"
#include "engine/model.h"

namespace nanochat::engine {
namespace {

#define NANOCHAT_UNROLL _Pragma("GCC unroll 32")

// N: fp32 lanes of a register. dot: products of bf16 take pairs.
template <int N, bool dot, Precision precision>
struct Loops {
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
  static constexpr int kRegisters = static_cast<int>(kBlockColumns) / N;  // of a block of outputs
  static constexpr int kMaxRows = N == 16 ? 8 : N == 8 ? 4 : 2;           // of a tile
  // Blocks of a tile: as many accumulators as registers allow, so that loads are shared.
  static constexpr int blocks_of_tile(int rows) {
    if (N == 16) return rows <= 4 ? 6 : 3;
    return N == 8 && rows <= 2 ? 4 - rows : 1;
  }

  static V broadcast(float x) { return V{} + x; }
  static Words words(const void* p) {
    Words w;
    __builtin_memcpy(&w, p, sizeof(w));
    return w;
  }
  static V even(Words w) { return std::bit_cast<V>(w << 16); }
  static V odd(Words w) { return std::bit_cast<V>(w & 0xffff0000u); }

  // out[row][block] = sum over k of a[row][k] w[block][k], in ascending order of k.
  template <int rows, int blocks>
  static void tile(const Input* a, int64_t a_stride, const char* w, int64_t block_bytes, int64_t K,
                   float* out, int64_t out_stride) {
    V acc[rows][blocks][kRegisters] = {};
    if constexpr (kPairs) {
#if defined(__AVX512BF16__)
      for (int64_t k = 0; k < K; k += 2) {
        __m512bh weight[blocks];
        NANOCHAT_UNROLL
        for (int b = 0; b < blocks; ++b) {
          weight[b] = (__m512bh)_mm512_loadu_si512(w + b * block_bytes + k * 32);
        }
        NANOCHAT_UNROLL
        for (int r = 0; r < rows; ++r) {
          int32_t pair;
          __builtin_memcpy(&pair, a + r * a_stride + k, sizeof(pair));
          const auto input = (__m512bh)_mm512_set1_epi32(pair);
          NANOCHAT_UNROLL
          for (int b = 0; b < blocks; ++b) {
            acc[r][b][0] = (V)_mm512_dpbf16_ps((__m512)acc[r][b][0], weight[b], input);
          }
        }
      }
#endif
    } else if constexpr (kHalf) {
      for (int64_t k = 0; k < K; k += 2) {
        NANOCHAT_UNROLL
        for (int b = 0; b < blocks; ++b) {
          NANOCHAT_UNROLL
          for (int i = 0; i < kRegisters; ++i) {
            const Words pairs = words(w + b * block_bytes + k * 32 + i * 4 * N);
            const V first = even(pairs), second = odd(pairs);
            NANOCHAT_UNROLL
            for (int r = 0; r < rows; ++r) {
              acc[r][b][i] += first * broadcast(a[r * a_stride + k]);
              acc[r][b][i] += second * broadcast(a[r * a_stride + k + 1]);
            }
          }
        }
      }
    } else {
      for (int64_t k = 0; k < K; ++k) {
        NANOCHAT_UNROLL
        for (int b = 0; b < blocks; ++b) {
          NANOCHAT_UNROLL
          for (int i = 0; i < kRegisters; ++i) {
            V weight;
            __builtin_memcpy(&weight, w + b * block_bytes + k * 64 + i * 4 * N, sizeof(weight));
            NANOCHAT_UNROLL
            for (int r = 0; r < rows; ++r) {
              acc[r][b][i] += weight * broadcast(a[r * a_stride + k]);
            }
          }
        }
      }
    }
    NANOCHAT_UNROLL
    for (int r = 0; r < rows; ++r) {
      NANOCHAT_UNROLL
      for (int b = 0; b < blocks; ++b) {
        NANOCHAT_UNROLL
        for (int i = 0; i < kRegisters; ++i) {
          simd::write(out + r * out_stride + b * kBlockColumns + i * N, acc[r][b][i]);
        }
      }
    }
  }

  // The same of weights in int8, without their scale: `a` are inputs, or quantized rows, whose
  // bytes are offset by 128 as vpdpbusd wants them unsigned.
  template <int rows, int blocks>
  static void int8_tile(const char* a, int64_t a_stride, const char* w, int64_t block_bytes,
                        int64_t K, [[maybe_unused]] const int32_t* column_sums, float* out,
                        int64_t out_stride) {
    if constexpr (kQuantizes) {
#if defined(__AVX512VNNI__)
      Integers high[rows][blocks] = {}, low[rows][blocks] = {};
      for (int64_t k = 0; k < K; k += 4) {
        __m512i weight[blocks];
        NANOCHAT_UNROLL
        for (int b = 0; b < blocks; ++b) {
          weight[b] = _mm512_loadu_si512(w + b * block_bytes + k * kBlockColumns);
        }
        NANOCHAT_UNROLL
        for (int r = 0; r < rows; ++r) {
          const char* const row = a + r * a_stride + kQuantizedHeader + k;
          int32_t four_high, four_low;
          __builtin_memcpy(&four_high, row, 4);
          __builtin_memcpy(&four_low, row + K, 4);
          const __m512i input_high = _mm512_set1_epi32(four_high);
          const __m512i input_low = _mm512_set1_epi32(four_low);
          NANOCHAT_UNROLL
          for (int b = 0; b < blocks; ++b) {
            high[r][b] = (Integers)_mm512_dpbusd_epi32((__m512i)high[r][b], input_high, weight[b]);
            low[r][b] = (Integers)_mm512_dpbusd_epi32((__m512i)low[r][b], input_low, weight[b]);
          }
        }
      }
      NANOCHAT_UNROLL
      for (int r = 0; r < rows; ++r) {
        float scale;
        __builtin_memcpy(&scale, a + r * a_stride, sizeof(scale));
        NANOCHAT_UNROLL
        for (int b = 0; b < blocks; ++b) {
          Integers columns;
          __builtin_memcpy(&columns, column_sums + b * kBlockColumns, sizeof(columns));
          const V h = __builtin_convertvector(high[r][b] - 128 * columns, V);
          const V l = __builtin_convertvector(low[r][b] - 128 * columns, V);
          simd::write(out + r * out_stride + b * kBlockColumns, (h * 256.0f + l) * scale);
        }
      }
#endif
    } else {
      V acc[rows][blocks][kRegisters] = {};
      for (int64_t k = 0; k < K; k += 4) {
        for (int b = 0; b < blocks; ++b) {
          for (int i = 0; i < kRegisters; ++i) {
            Integers four;
            __builtin_memcpy(&four, w + b * block_bytes + k * kBlockColumns + i * 4 * N,
                             sizeof(four));
            NANOCHAT_UNROLL
            for (int j = 0; j < 4; ++j) {
              const V weight = __builtin_convertvector((four << (24 - 8 * j)) >> 24, V);
              for (int r = 0; r < rows; ++r) {
                const auto* const row = reinterpret_cast<const Input*>(a + r * a_stride);
                acc[r][b][i] += weight * broadcast(load(row[k + j]));
              }
            }
          }
        }
      }
      for (int r = 0; r < rows; ++r) {
        for (int b = 0; b < blocks; ++b) {
          for (int i = 0; i < kRegisters; ++i) {
            simd::write(out + r * out_stride + b * kBlockColumns + i * N, acc[r][b][i]);
          }
        }
      }
    }
  }

  // Rows of a product's tile at once, and blocks of weights; integers take two sums for each
  // output.
  static constexpr int kProductRows = kQuantizes ? 4 : kMaxRows;
  static constexpr int int8_blocks_of_tile(int rows) { return kQuantizes && rows <= 2 ? 6 : 3; }

  template <int rows>
  static void int8_tiles(const Product& product, int64_t row, int64_t block, int64_t num_blocks,
                         float* sums, int64_t stride) {
    constexpr int kBlocks = int8_blocks_of_tile(rows);
    const PackedMatrix& weight = *product.weight;
    const int64_t K = weight.depth();
    const int64_t a_stride =
        kQuantizes ? quantized_bytes(K) : K * static_cast<int64_t>(sizeof(Input));
    const char* const a = static_cast<const char*>(product.a) + row * a_stride;
    const auto tile_of = [&](auto blocks, int64_t b) {
      int8_tile<rows, decltype(blocks)::value>(
          a, a_stride, weight.block(block + b), weight.block_bytes(), K,
          weight.sums() + (block + b) * kBlockColumns, sums + b * kBlockColumns, stride);
    };
    int64_t b = 0;
    for (; b + kBlocks <= num_blocks; b += kBlocks) {
      tile_of(std::integral_constant<int, kBlocks>{}, b);
    }
    for (; b < num_blocks; ++b) tile_of(std::integral_constant<int, 1>{}, b);
    for (int r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < num_blocks * kBlockColumns; i += N) {
        float* const at = sums + r * stride + i;
        simd::write(at,
                    simd::read<V>(at) * simd::read<V>(weight.scales() + block * kBlockColumns + i));
      }
    }
  }

  static void quantize(const void* inputs, int64_t n, void* out) {
    const auto* const from = static_cast<const Input*>(inputs);
    auto* const to = static_cast<uint8_t*>(out) + kQuantizedHeader;
    V max_lanes = {};
    float max = 0;
    simd::for_each_step<V, float>(n, [&](auto tag, int64_t i) {
      using F = typename decltype(tag)::type;
      const F x = simd::read<F>(from + i), size = x < 0.0f ? -x : x;
      if constexpr (simd::kIsVector<F>) {
        max_lanes = size > max_lanes ? size : max_lanes;
      } else {
        max = size > max ? size : max;
      }
    });
    for (int i = 0; i < N; ++i) max = max_lanes[i] > max ? max_lanes[i] : max;
    constexpr float kLargest = 32639;  // its high byte is 127 after rounding
    const float scale = max / kLargest;
    const float factor = max > 0 ? kLargest / max : 0;
    __builtin_memcpy(out, &scale, sizeof(scale));
    // 1.5 * 2^23: adding it leaves the integer in the low bits. And 128 is added to both bytes, so
    // that they are unsigned.
    constexpr float kRound = 12582912.0f;
    constexpr uint32_t kOffset = 0x8080u - std::bit_cast<uint32_t>(kRound);
    int64_t i = 0;
    for (; i + N <= n; i += N) {
      const V rounded = simd::read<V>(from + i) * factor + kRound;
      const Words q = std::bit_cast<Words>(rounded) + kOffset;
      const Bytes high = __builtin_convertvector(q >> 8 & 0xffu, Bytes);
      const Bytes low = __builtin_convertvector(q & 0xffu, Bytes);
      __builtin_memcpy(to + i, &high, sizeof(high));
      __builtin_memcpy(to + n + i, &low, sizeof(low));
    }
    for (; i < n; ++i) {
      const uint32_t q = std::bit_cast<uint32_t>(load(from[i]) * factor + kRound) + kOffset;
      to[i] = static_cast<uint8_t>(q >> 8);
      to[n + i] = static_cast<uint8_t>(q);
    }
  }

  // The same for any number of blocks; sums (rows, 16 num_blocks) at `out`.
  template <int rows>
  static void tiles(const Input* a, int64_t a_stride, const char* w, int64_t block_bytes,
                    int64_t num_blocks, int64_t K, float* out, int64_t out_stride) {
    constexpr int kBlocks = blocks_of_tile(rows);
    int64_t b = 0;
    for (; b + kBlocks <= num_blocks; b += kBlocks) {
      tile<rows, kBlocks>(a, a_stride, w + b * block_bytes, block_bytes, K, out + b * kBlockColumns,
                          out_stride);
    }
    for (; b < num_blocks; ++b) {
      tile<rows, 1>(a, a_stride, w + b * block_bytes, block_bytes, K, out + b * kBlockColumns,
                    out_stride);
    }
  }

  // body(integral constant of rows, first row), tile after tile.
  template <int max_rows, typename Body>
  static void for_each_tile(int64_t num_rows, const Body& body) {
    int64_t r = 0;
    for (; r + max_rows <= num_rows; r += max_rows) {
      body(std::integral_constant<int, max_rows>{}, r);
    }
    const int64_t rest = num_rows - r;
    if constexpr (max_rows > 4) {
      if (rest == 7) return body(std::integral_constant<int, 7>{}, r);
      if (rest == 6) return body(std::integral_constant<int, 6>{}, r);
      if (rest == 5) return body(std::integral_constant<int, 5>{}, r);
      if (rest == 4) return body(std::integral_constant<int, 4>{}, r);
    }
    if constexpr (max_rows > 2) {
      if (rest == 3) return body(std::integral_constant<int, 3>{}, r);
      if (rest == 2) return body(std::integral_constant<int, 2>{}, r);
    }
    if (rest == 1) body(std::integral_constant<int, 1>{}, r);
  }

  static void to_inputs(const float* x, int64_t n, void* out) {
    auto* const to = static_cast<Input*>(out);
    simd::for_each_step<V, float>(n, [&](auto tag, int64_t i) {
      using F = typename decltype(tag)::type;
      put_input(to + i, simd::read<F>(x + i));
    });
  }

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

  static float norm(const float* x, int64_t n, float eps, void* out) {
    simd::RowSum<V, float> squares;
    simd::for_each_step<V, float>(n, [&](auto tag, int64_t i) {
      const auto v = simd::read<typename decltype(tag)::type>(x + i);
      squares.add(v * v);
    });
    const float inv_rms = 1.0f / __builtin_sqrtf(squares.total() / static_cast<float>(n) + eps);
    auto* const to = static_cast<Input*>(out);
    simd::for_each_step<V, float>(n, [&](auto tag, int64_t i) {
      using F = typename decltype(tag)::type;
      put_input(to + i, simd::read<F>(x + i) * inv_rms);
    });
    return inv_rms;
  }

  static void multiply(const Product& product, int64_t first_block, int64_t last_block) {
    // So many rows of inputs, and so many blocks of weights, stay in the second-level cache.
    constexpr int64_t kRowsAtOnce = 64, kBlocksAtOnce = 6;
    const PackedMatrix& weight = *product.weight;
    const int64_t K = weight.depth();
    for (int64_t row = 0; row < product.num_rows; row += kRowsAtOnce) {
      const int64_t num_rows =
          product.num_rows - row < kRowsAtOnce ? product.num_rows - row : kRowsAtOnce;
      for (int64_t block = first_block; block < last_block; block += kBlocksAtOnce) {
        const int64_t num_blocks =
            last_block - block < kBlocksAtOnce ? last_block - block : kBlocksAtOnce;
        for_each_tile<kProductRows>(num_rows, [&](auto rows, int64_t r) {
          constexpr int64_t kColumns = kBlocksAtOnce * kBlockColumns;
          float sums[decltype(rows)::value * kColumns];
          constexpr int kRows = decltype(rows)::value;
          if constexpr (kInt8) {
            int8_tiles<kRows>(product, row + r, block, num_blocks, sums, kColumns);
          } else {
            tiles<kRows>(static_cast<const Input*>(product.a) + (row + r) * K, K,
                         weight.block(block), weight.block_bytes(), num_blocks, K, sums, kColumns);
          }
          for (int i = 0; i < decltype(rows)::value; ++i) {
            finish(product, row + r + i, block * kBlockColumns, num_blocks * kBlockColumns,
                   sums + i * kColumns);
          }
        });
      }
    }
  }

  static void finish(const Product& product, int64_t row, int64_t column, int64_t n,
                     const float* sums) {
    const int64_t at = row * product.out_stride + column;
    if (product.epilogue == Epilogue::kReluSquare) {
      auto* const out = static_cast<Input*>(product.out) + at;
      for (int64_t i = 0; i < n; i += N) {
        const V x = simd::read<V>(sums + i);
        const V positive = x > 0.0f ? x : V{};
        put_input(out + i, positive * positive);
      }
      return;
    }
    float* const out = static_cast<float*>(product.out) + at;
    const bool adds = product.epilogue == Epilogue::kAdd;
    for (int64_t i = 0; i < n; i += N) {
      const V x = simd::read<V>(sums + i);
      simd::write(out + i, adds ? simd::read<V>(out + i) + x : x);
    }
  }

  static void rope_norm(float* x, int64_t D, const float* cos, const float* sin, float eps,
                        float scale) {
    const int64_t half = D / 2;
    simd::RowSum<V, float> squares;
    simd::for_each_step<V, float>(half, [&](auto tag, int64_t i) {
      using F = typename decltype(tag)::type;
      const F first = simd::read<F>(x + i), second = simd::read<F>(x + half + i);
      const F c = simd::read<F>(cos + i), s = simd::read<F>(sin + i);
      const F y1 = first * c + second * s, y2 = second * c - first * s;
      simd::write(x + i, y1);
      simd::write(x + half + i, y2);
      squares.add(y1 * y1 + y2 * y2);
    });
    const float factor = scale / __builtin_sqrtf(squares.total() / static_cast<float>(D) + eps);
    for (int64_t i = 0; i < D; ++i) x[i] *= factor;
  }

  static void store_key(const float* x, int64_t D, int slot, char* keys) {
    auto* const block = reinterpret_cast<Cached*>(keys) + slot / kBlockColumns * kBlockColumns * D;
    const int64_t lane = slot % kBlockColumns;
    if constexpr (kHalf) {
      for (int64_t d = 0; d < D; ++d) {
        block[(d / 2 * kBlockColumns + lane) * 2 + d % 2] = to_bfloat16(x[d]);
      }
    } else {
      for (int64_t d = 0; d < D; ++d) block[d * kBlockColumns + lane] = x[d];
    }
  }

  static void store_value(const float* x, int64_t D, int slot, char* values) {
    auto* const row = reinterpret_cast<Cached*>(values) + slot * D;
    simd::for_each_step<V, float>(D, [&](auto tag, int64_t i) {
      simd::write(row + i, simd::read<typename decltype(tag)::type>(x + i));
    });
  }

  static void attend(const AttendTask& task) {
    const int64_t end = task.first_position + task.num_queries;  // of the keys
    const int64_t begin = task.window < 0 || task.first_position < task.window
                              ? 0
                              : task.first_position - task.window;
    const int64_t first_page = begin / kPageTokens;
    const int64_t stride = ((end - 1) / kPageTokens + 1 - first_page) * kPageTokens;
    float* const scores = task.scratch;  // (num_queries, stride), of keys from first_page on
    float sums[kMaxQueries];
    for_each_tile<kMaxRows>(task.num_queries, [&](auto rows, int64_t r) {
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
      tiles<rows>(queries, task.query_stride, task.pages[page] + task.keys_offset, block_bytes,
                  (num_keys + kBlockColumns - 1) / kBlockColumns, D,
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

  static constexpr Kernels table() {
    return {.input_bytes = sizeof(Input),
            .cache_bytes = sizeof(Cached),
            .to_inputs = to_inputs,
            .norm = norm,
            .quantize = kQuantizes ? quantize : nullptr,
            .multiply = multiply,
            .rope_norm = rope_norm,
            .store_key = store_key,
            .store_value = store_value,
            .attend = attend};
  }
};

template <int N, bool dot>
const Kernels& table_of(Precision precision) {
  static constexpr Kernels kHalf = Loops<N, dot, Precision::kBFloat16>::table();
  static constexpr Kernels kFull = Loops<N, dot, Precision::kFloat32>::table();
  static constexpr Kernels kInt8 = Loops<N, dot, Precision::kInt8>::table();
  if (precision == Precision::kInt8) return kInt8;
  return precision == Precision::kBFloat16 ? kHalf : kFull;
}

}  // namespace
}  // namespace nanochat::engine
