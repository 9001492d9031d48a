// Kernel 2: one token's queries over 256 of its keys. A block has the kGroup query heads that share
// the reading of a key/value head, a warp one page of 64 keys; a key is a row of 16 bytes to a
// lane.
//
//   keys        | page | page | page | page |  split of the block: warps in order -> partial
//   of a token  |         split 0           |         split 1           | ..    -> sum in order
//
// The norm of q and k bounds their scores: |q . k| / sqrt(D) <= qk_scale^2 sqrt(D). That bound
// takes the place of the running maximum: partial sums need no rescaling and add up as they are.
// The block that comes last (it draws the last ticket) adds the splits, in their order, whoever it
// is.
//
// Roofline: memory; 4 D bytes and 4 D FLOP for each key and kv head, so no tensor cores.
#include <cmath>

#include "common/cuda/reduce.cuh"
#include "common/cuda/vector.cuh"
#include "engine/cuda/launch.cuh"
#include "engine/cuda/ptx.cuh"

namespace nanochat::engine::cuda {
namespace {

using nanochat::cuda::kWarp;
using nanochat::cuda::reduce_lanes;
using nanochat::cuda::Sum;

constexpr int kVector = 8;  // bf16 in 16 bytes
constexpr int kWarps = kSplitPages;
constexpr int kThreads = kWarps * kWarp;
constexpr int kUnroll = 4;  // rows of k and of v that a lane has under way

__device__ __forceinline__ void widen(const uint4& raw, float (&x)[kVector]) {
  const uint32_t words[] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = to_float(BFloat16{static_cast<uint16_t>(words[i] & 0xffffu)});
    x[2 * i + 1] = to_float(BFloat16{static_cast<uint16_t>(words[i] >> 16)});
  }
}

// Unnormalized output and weight of kGroup queries over some keys.
template <int kGroup>
struct Sums {
  float out[kGroup][kVector];
  float weight[kGroup];
};

// A warp over keys begin .. end - 1 of a page.
template <int kHeadDim, int kGroup>
__device__ __forceinline__ void attend_page(const BFloat16* keys, const BFloat16* values,
                                            const float (&q)[kGroup][kVector], int begin, int end,
                                            float scale, float bound, Sums<kGroup>& sums) {
  constexpr int kLanes = kHeadDim / kVector, kKeys = kWarp / kLanes, kStep = kKeys * kUnroll;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int sub = lane / kLanes, d = lane % kLanes * kVector;
  for (int base = begin / kStep * kStep; base < end; base += kStep) {
    uint4 k[kUnroll], v[kUnroll];
    bool is_visible[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int key = base + u * kKeys + sub;
      is_visible[u] = key >= begin && key < end;
      k[u] = v[u] = uint4{0, 0, 0, 0};
      if (is_visible[u]) {
        k[u] = load_written(keys + key * kHeadDim + d);
        v[u] = load_written(values + key * kHeadDim + d);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float key[kVector], value[kVector];
      widen(k[u], key);
      widen(v[u], value);
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < kVector; ++i) score = fmaf(q[g][i], key[i], score);
        score = reduce_lanes<kLanes>(score, Sum{});
        const float weight = is_visible[u] ? exp2f(fmaf(score, scale, -bound)) : 0.0f;
        sums.weight[g] += weight;
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          sums.out[g][i] = fmaf(weight, value[i], sums.out[g][i]);
        }
      }
    }
  }
  // The groups of lanes had different keys.
#pragma unroll
  for (int g = 0; g < kGroup; ++g) {
#pragma unroll
    for (int offset = kLanes; offset < kWarp; offset *= 2) {
      sums.weight[g] += __shfl_xor_sync(nanochat::cuda::kAllLanes, sums.weight[g], offset);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        sums.out[g][i] += __shfl_xor_sync(nanochat::cuda::kAllLanes, sums.out[g][i], offset);
      }
    }
  }
}

struct Scale {
  float scale, bound;  // exp2(score * scale - bound)
};

template <int kHeadDim, int kGroup>
__global__ void __launch_bounds__(kThreads) attention_kernel(const Attention p, const Scale scale) {
  constexpr int kLanes = kHeadDim / kVector;
  __shared__ float outs[kWarps][kGroup][kHeadDim];
  __shared__ float weights[kWarps][kGroup];
  __shared__ bool is_last;

  let_next_start();
  wait_for_previous();
  const int64_t token = blockIdx.z;
  const int position = p.step.position[token];
  if (position < 0) return;
  const Splits splits = splits_of(position, p.window);
  const int split = static_cast<int>(blockIdx.x);
  if (split >= splits.count) return;

  const int first_head = static_cast<int>(blockIdx.y) * kGroup;
  const int kv_head = first_head / (p.n_head / p.kv.n_kv_head);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int page_index = (splits.first_split + split) * kSplitPages + warp;
  const int before = page_index * kPageTokens;
  const int begin = splits.first_key > before ? splits.first_key - before : 0;
  const int end = position - before + 1 < kPageTokens ? position - before + 1 : kPageTokens;
  Sums<kGroup> sums{};
  if (begin < end) {
    float q[kGroup][kVector];
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
      widen(load_written(p.q + (token * p.n_head + first_head + g) * kHeadDim +
                         lane % kLanes * kVector),
            q[g]);
    }
    const int64_t page =
        p.step.tables[int64_t{p.step.sequence[token]} * p.step.table_stride + page_index];
    attend_page<kHeadDim, kGroup>(p.pages + p.kv.offset(page, p.layer, 0, kv_head),
                                  p.pages + p.kv.offset(page, p.layer, 1, kv_head), q, begin, end,
                                  scale.scale, scale.bound, sums);
  }
  if (lane < kLanes) {
#pragma unroll
    for (int g = 0; g < kGroup; ++g) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) outs[warp][g][lane * kVector + i] = sums.out[g][i];
      if (lane == 0) weights[warp][g] = sums.weight[g];
    }
  }
  __syncthreads();

  const auto write = [&](int head, int d, float out, float weight) {
    p.out[activation_index(token, head * kHeadDim + d, p.n_head * kHeadDim)] =
        to_bfloat16(out / weight);
  };
  for (int i = static_cast<int>(threadIdx.x); i < kGroup * kHeadDim; i += kThreads) {
    const int g = i / kHeadDim, d = i % kHeadDim;
    float out = outs[0][g][d], weight = weights[0][g];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      out += outs[w][g][d];
      weight += weights[w][g];
    }
    if (splits.count == 1) {
      write(first_head + g, d, out, weight);
    } else {
      const int64_t place = (token * p.n_head + first_head + g) * p.num_splits + split;
      p.partial[place * kHeadDim + d] = out;
      if (d == 0) p.partial_sum[place] = weight;
    }
  }
  if (splits.count == 1) return;

  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* ticket = p.tickets + token * p.n_head + first_head;
    is_last = atomicAdd(ticket, 1u) + 1u == static_cast<unsigned>(splits.count);
    if (is_last) *ticket = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int i = static_cast<int>(threadIdx.x); i < kGroup * kHeadDim; i += kThreads) {
    const int g = i / kHeadDim, d = i % kHeadDim;
    const int64_t place = (token * p.n_head + first_head + g) * p.num_splits;
    float out = 0.0f, weight = 0.0f;
    for (int s = 0; s < splits.count; ++s) {
      out += __ldcg(p.partial + (place + s) * kHeadDim + d);
      weight += __ldcg(p.partial_sum + place + s);
    }
    write(first_head + g, d, out, weight);
  }
}

}  // namespace

void launch_attention(const Launcher& where, const Attention& p, int num_tokens) {
  const double root = std::sqrt(static_cast<double>(p.kv.head_dim));
  constexpr double kLog2E = 1.4426950408889634, kRounding = 1.01;  // q and k were rounded to bf16
  const Scale scale{
      .scale = static_cast<float>(kLog2E / root),
      .bound = static_cast<float>(kLog2E * kRounding * p.qk_scale * p.qk_scale * root)};
  const auto with_group = [&](auto head_dim, auto group) {
    const dim3 grid(static_cast<unsigned>(p.num_splits), static_cast<unsigned>(p.n_head / group),
                    static_cast<unsigned>(num_tokens));
    launch(where, "engine: attention", attention_kernel<head_dim, group>, grid, kThreads, p, scale);
  };
  const auto with_dim = [&](auto head_dim) {
    const int ratio = p.n_head / p.kv.n_kv_head;
    if (ratio % 4 == 0) {
      with_group(head_dim, std::integral_constant<int, 4>{});
    } else if (ratio % 2 == 0) {
      with_group(head_dim, std::integral_constant<int, 2>{});
    } else {
      with_group(head_dim, std::integral_constant<int, 1>{});
    }
  };
  if (p.kv.head_dim == 64) {
    with_dim(std::integral_constant<int, 64>{});
  } else {
    with_dim(std::integral_constant<int, 128>{});
  }
}

}  // namespace nanochat::engine::cuda
