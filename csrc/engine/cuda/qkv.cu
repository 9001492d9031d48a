// Kernel 1: q, k and v of a layer with all that happens to them. A block owns one head for up to 64
// tokens, so that norm, rotation and the append to the page find the whole row in shared memory:
//
//   warp w: rows 16 w .. 16 w + 15 of the head, all channels in order -> shared (token, head_dim)
//   then a warp per token: q, k  rope, norm, times qk_scale
//                          v     + 3 sigmoid(gate) ve
//
// n_head + 2 n_kv_head blocks leave most of the chip idle at one token; spreading a head over
// blocks needs k's norm to be applied by its readers. Not yet.
#include "engine/cuda/gemm.cuh"
#include "engine/cuda/launch.cuh"

namespace nanochat::engine::cuda {
namespace {

using attention::Pair;

// As attention::rotate, with the rounding written out (see gemm.cuh).
__device__ __forceinline__ Pair<float> rotate(Pair<float> x, float cos, float sin) {
  return {fmaf(x.first, cos, __fmul_rn(x.second, sin)),
          fmaf(x.second, cos, -__fmul_rn(x.first, sin))};
}

// Where the row of k or v of a token goes.
__device__ __forceinline__ BFloat16* cache_row(const Qkv& p, int64_t token, int is_value,
                                               int head) {
  const int position = p.step.position[token];
  const int page =
      p.step.tables[int64_t{p.step.sequence[token]} * p.step.table_stride + position / kPageTokens];
  return p.pages + p.kv.offset(page, p.layer, is_value, head) +
         int64_t{position % kPageTokens} * p.kv.head_dim;
}

// A warp: normed and rotated row to `out`.
template <int kHeadDim>
__device__ __forceinline__ void write_normed(const Qkv& p, const float* row, float norm,
                                             int position, BFloat16* out) {
  constexpr int kHalf = kHeadDim / 2, kPairs = kHalf / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Pair<float> y[kPairs];
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int d = i * kWarp + lane;
    const int64_t angle = int64_t{position} * kHalf + d;
    y[i] = rotate({row[d] * norm, row[d + kHalf] * norm}, p.cos[angle], p.sin[angle]);
    squares = fmaf(y[i].first, y[i].first, squares);
    squares = fmaf(y[i].second, y[i].second, squares);
  }
  squares = reduce_lanes<kWarp>(squares, nanochat::cuda::Sum{});
  const float scale = p.qk_scale * attention::inv_rms(squares, kHeadDim, p.in.eps);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int d = i * kWarp + lane;
    out[d] = to_bfloat16(y[i].first * scale);
    out[d + kHalf] = to_bfloat16(y[i].second * scale);
  }
}

// A warp: the row of v with its share of the value embedding to `out`.
template <int kHeadDim>
__device__ __forceinline__ void write_value(const Qkv& p, const float* row, float norm,
                                            int64_t token, int head, BFloat16* out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float gate = 0.0f;
  const BFloat16* ve = nullptr;
  if (p.gate != nullptr) {
    float logit = 0.0f;
    for (int c = lane; c < p.gate_channels; c += kWarp) {
      logit =
          fmaf(p.gate[head * p.gate_channels + c], p.in.x[token * p.in.channels + c] * norm, logit);
    }
    gate = attention::value_gate(reduce_lanes<kWarp>(logit, nanochat::cuda::Sum{}));
    ve = p.value_embedding +
         (int64_t{p.step.token[token]} * p.kv.n_kv_head + head) * int64_t{kHeadDim};
  }
#pragma unroll
  for (int d = lane; d < kHeadDim; d += kWarp) {
    const float v = __fmul_rn(row[d], norm);
    out[d] = to_bfloat16(ve == nullptr ? v : fmaf(gate, to_float(ve[d]), v));
  }
}

template <int kHeadDim, int kColumns>
__global__ void __launch_bounds__(kHeadDim / kMmaRows * kWarp) qkv_kernel(const Qkv p) {
  constexpr int kWarps = kHeadDim / kMmaRows, kThreads = kWarps * kWarp;
  constexpr int kTokens = kColumns * kMmaTokens;
  constexpr int kStride = kHeadDim + 4;  // floats a token: the stores of a warp hit 32 banks
  __shared__ float rows[kTokens * kStride];
  __shared__ float norms[kTokens];

  let_next_start();
  const int tile = static_cast<int>(blockIdx.x), slot = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  WeightStream<1, kColumns> stream(p.weights, slot * kWarps + warp, p.in.channels / kBlockChannels,
                                   0, 1);
  stream.start_weights();
  wait_for_previous();
  stream.start_activations(p.in.multiplier + int64_t{tile} * kTokenTile * p.in.channels);
  inverse_norms<kColumns, kThreads>(p.in, tile, norms);
  float sums[1][kColumns][4] = {};
  stream.multiply(sums);
  store_sums<kColumns>(sums[0], rows + warp * kMmaRows, kStride);
  __syncthreads();

  const bool is_q = slot < p.n_head, is_value = slot >= p.n_head + p.kv.n_kv_head;
  const int head = is_q ? slot : slot - p.n_head - (is_value ? p.kv.n_kv_head : 0);
  for (int i = warp; i < kTokens; i += kWarps) {
    const int64_t token = int64_t{tile} * kTokenTile + i;
    const int position = p.step.position[token];
    if (position < 0) continue;
    BFloat16* out = is_q ? p.q + (token * p.n_head + head) * kHeadDim
                         : cache_row(p, token, is_value ? 1 : 0, head);
    if (is_value) {
      write_value<kHeadDim>(p, rows + i * kStride, norms[i], token, head, out);
    } else {
      write_normed<kHeadDim>(p, rows + i * kStride, norms[i], position, out);
    }
  }
}

}  // namespace

void launch_qkv(const Launcher& where, const Qkv& p, int num_tokens) {
  with_columns(num_tokens, [&](auto columns) {
    const dim3 grid(token_tiles(num_tokens), static_cast<unsigned>(p.n_head + 2 * p.kv.n_kv_head));
    const int threads = p.kv.head_dim / kMmaRows * kWarp;
    if (p.kv.head_dim == 64) {
      launch(where, "engine: qkv", qkv_kernel<64, columns>, grid, threads, p);
    } else {
      launch(where, "engine: qkv", qkv_kernel<128, columns>, grid, threads, p);
    }
  });
}

}  // namespace nanochat::engine::cuda
