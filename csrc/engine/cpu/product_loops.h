// Products: tiles of outputs, as many as there are registers for, each accumulated over K in
// ascending order. A row's bits do not depend on the tile that it is in.
#pragma once

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "engine/cpu/lanes.h"

namespace nanochat::engine {
namespace {

template <int N, bool dot, Precision precision>
struct ProductLoops : Lanes<N, dot, precision> {
  using Base = Lanes<N, dot, precision>;
  using Base::broadcast, Base::even, Base::kHalf, Base::kInt8, Base::kPairs, Base::kQuantizes,
      Base::odd, Base::put_input, Base::words;
  using typename Base::Bytes, typename Base::Input, typename Base::Integers, typename Base::V,
      typename Base::Words;
  static constexpr int kRegisters = static_cast<int>(kBlockColumns) / N;  // of a block of outputs
  static constexpr int kMaxRows = N == 16 ? 8 : N == 8 ? 4 : 2;           // of a tile
  // Blocks of a tile: as many accumulators as registers allow, so that loads are shared.
  static constexpr int blocks_of_tile(int rows) {
    if (N == 16) return rows <= 4 ? 6 : 3;
    return N == 8 && rows <= 2 ? 4 - rows : 1;
  }

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
};

}  // namespace
}  // namespace nanochat::engine
