// The loops of the CPU model, compiled once for each instruction level and chosen at run time.
//
//   level         products                                             inputs of products (bf16
//   model) base, avx2,   bf16 weights widened by a shift, fused multiply-add  fp32 holding bf16
//   values avx512        of even, then odd k avx512_bf16   dpbf16ps, two k at a time pairs of bf16
//
// In a model of fp32, weights and inputs are fp32 at every level. In one of int8, weights become
// fp32 on the way at the lower levels. At avx512_bf16 an input is brought to 16 bits, its row's
// largest to 32,639, and cut in two bytes, so that vpdpbusd takes it as it is, twice, with sums of
// integers that are exact; what is lost of an input is less than its rounding to bf16 loses.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "engine/cpu/packed_matrix.h"

namespace nanochat::engine {

enum class Isa : int { kBase = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

[[nodiscard]] Isa best_isa();

// What becomes of an output of a product.
enum class Epilogue {
  kStore,      // fp32
  kAdd,        // added to the fp32 that is there: the residual stream
  kReluSquare  // max(x, 0)^2, as the input of another product
};

// out (rows, columns) = epilogue(a (rows, K) W^T), for columns [16 first_block, 16 last_block).
struct Product {
  const PackedMatrix* weight;
  const void* a;  // inputs of products, rows contiguous and next to each other; or quantized rows
  int64_t num_rows;
  Epilogue epilogue;
  void* out;
  int64_t out_stride;  // elements; at least 16 * last_block for kStore
};

// One kv head's queries of consecutive tokens against the pages of their sequence, in one layer.
// keys: [page][tokens / 16][D / 2][16][2] bf16 or [page][tokens / 16][D][16] fp32, a page's values
// [tokens][D]; both at a fixed place in a page.
struct AttendTask {
  const void* queries;  // (num_queries, D), as inputs of products
  int64_t query_stride;
  int num_queries;     // at most kMaxQueries
  int first_position;  // of the first query
  int window;          // keys visible to the left, -1 for all
  int head_dim;
  float scale;
  const char* const* pages;            // memory of the sequence's pages
  int64_t keys_offset, values_offset;  // bytes, in a page
  void* out;                           // (num_queries, D), as inputs of products
  int64_t out_stride;
  float* scratch;  // num_queries times the keys from the first page that is seen to the last
};

inline constexpr int kMaxQueries = 8;
inline constexpr int64_t kQuantizedHeader = 64;  // bytes, of which a float is used

// Of a quantized row: its scale, then the high bytes, then the low ones.
[[nodiscard]] constexpr int64_t quantized_bytes(int64_t n) {
  return kQuantizedHeader + 2 * n;
}

struct Kernels {
  int64_t input_bytes;  // of an element that goes into a product
  int64_t cache_bytes;  // of an element of a key or value

  // Inputs of products from fp32.
  void (*to_inputs)(const float* x, int64_t n, void* out);
  // x / rms(x), as inputs of products; returns 1 / rms.
  float (*norm)(const float* x, int64_t n, float eps, void* out);
  // From a row of inputs of products what multiply() takes instead, quantized_bytes(n); or null.
  void (*quantize)(const void* inputs, int64_t n, void* out);
  void (*multiply)(const Product& product, int64_t first_block, int64_t last_block);
  // Rotates x (D) by -theta, norms it to `scale`; in place. cos, sin (D / 2).
  void (*rope_norm)(float* x, int64_t D, const float* cos, const float* sin, float eps,
                    float scale);
  // Writes one token's key and value (D) of a head to its place in a page.
  void (*store_key)(const float* x, int64_t D, int slot, char* keys);
  void (*store_value)(const float* x, int64_t D, int slot, char* values);
  void (*attend)(const AttendTask& task);
};

// Throws Unsupported if this machine or build lacks the level.
[[nodiscard]] const Kernels& kernels(Isa isa, Precision precision);

}  // namespace nanochat::engine
