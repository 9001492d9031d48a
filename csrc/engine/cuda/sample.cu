// Draws tokens, a block for each, by the rules of engine/sampler.h; only what was drawn leaves the
// device.
//
// Every cut (top-k, top-p, min-p) keeps the tokens down to an edge in one order, by falling value
// and then rising id, so a cut is an edge and cuts combine to the stricter one. The edge is found
// by its bits, two a pass, from sums over the tokens above three candidates: no sort, no histogram,
// and no atomics, since whole numbers (tokens, or probability in units of 2^-40) add up the same in
// any order.
//
// The noise -log(-log u) of all tokens is computed in fp32, and in double for those that come near
// the best. A pass costs about a microsecond of one SM at V = 32768 [estimated].
#include <bit>
#include <climits>
#include <cmath>

#include "engine/cuda/launch.cuh"
#include "engine/cuda/ptx.cuh"
#include "engine/philox.h"

namespace nanochat::engine::cuda {
namespace {

constexpr int kThreads = 512;  // 1024 would leave 64 registers to a thread, and spills
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kNearBest = 1e-3f;  // the fp32 scores are right to 1e-5
constexpr float kMassUnit = 0x1p40f;

struct Max {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

struct Sum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

// Each of x over the block, to every thread, in one order.
template <int kCount, typename T, typename Op>
__device__ void reduce_all(T (&x)[kCount], Op op) {
  __shared__ T parts[kThreads / kWarp][kCount];
#pragma unroll
  for (T& y : x) {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      y = op(y, __shfl_xor_sync(kAllLanes, y, offset));
    }
  }
  __syncthreads();  // the previous call's parts are read
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp][k] = x[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    x[k] = parts[0][k];
    for (int i = 1; i < kThreads / kWarp; ++i) x[k] = op(x[k], parts[i][k]);
  }
}

template <typename T, typename Op>
__device__ T reduce(T x, Op op) {
  T one[] = {x};
  reduce_all(one, op);
  return one[0];
}

// Larger for larger values; the same for both zeros.
__device__ __forceinline__ uint32_t ordered(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x + 0.0f);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

// Larger for what comes first in the order of tokens.
__device__ __forceinline__ uint64_t rank_of(float value, int id) {
  return uint64_t{ordered(value)} << 32 | static_cast<uint32_t>(~id);
}

__device__ __forceinline__ int id_of(uint64_t rank) {
  return static_cast<int>(~static_cast<uint32_t>(rank));
}

struct Found {
  uint32_t key;
  bool is_exact;  // its sum is the target itself, so the search could end early
};

// A key below 2^bits whose sum is at least `target`, from sums that fall as keys rise: the largest
// one, or a smaller one with the same sum. Key 0 has enough. sum_at(key, shift, sums) adds a
// thread's shares of the sums of key + (1 << shift),
// + (2 << shift) and + (3 << shift).
template <typename SumAt>
__device__ Found largest_key(int bits, uint64_t target, const SumAt& sum_at) {
  Found found{0, false};
  for (int shift = (bits - 1) / 2 * 2; shift >= 0 && !found.is_exact; shift -= 2) {
    uint64_t sums[3] = {};
    sum_at(found.key, shift, sums);
    reduce_all(sums, Sum{});
    uint32_t digit = 0;
#pragma unroll
    for (uint32_t d = 1; d < 4; ++d) {
      if (sums[d - 1] < target) continue;
      digit = d;
      found.is_exact = sums[d - 1] == target;
    }
    found.key += digit << shift;
  }
  return found;
}

// The values of one draw.
struct Row {
  const float* values;
  int size;

  // The rank of the last token that is needed for `target` of `weight`, summed over ranks from
  // `edge` up, which have that much: of equals the lower ids.
  template <typename Weight>
  __device__ uint64_t edge_of(uint64_t edge, uint64_t target, const Weight& weight) const {
    const auto for_each = [&](const auto& body) {
      for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) {
        if (rank_of(values[i], i) >= edge) body(i, ordered(values[i]));
      }
    };
    const auto [value, is_exact] =
        largest_key(32, target, [&](uint32_t key, int shift, uint64_t (&sums)[3]) {
          for_each([&](int i, uint32_t x) {
            const uint64_t w = weight(values[i]);
#pragma unroll
            for (uint32_t d = 1; d < 4; ++d) sums[d - 1] += x >= key + (d << shift) ? w : 0;
          });
        });
    if (is_exact) return uint64_t{value} << 32;

    uint64_t above = 0, equals = 0, one = 0;
    for_each([&](int i, uint32_t x) {
      if (x > value) above += weight(values[i]);
      if (x == value) {
        ++equals;
        one = weight(values[i]);
      }
    });
    above = reduce(above, Sum{});
    equals = reduce(equals, Sum{});
    one = reduce(one, Max{});
    const uint64_t needed = (target - above + one - 1) / one;
    if (needed >= equals) return uint64_t{value} << 32;
    // Of the equals that are not needed, the first: the last that is needed has an id below it.
    const Found beyond = largest_key(
        static_cast<int>(std::bit_width(static_cast<uint32_t>(size))), equals - needed,
        [&](uint32_t key, int shift, uint64_t (&sums)[3]) {
          for_each([&](int i, uint32_t x) {
#pragma unroll
            for (uint32_t d = 1; d < 4; ++d) {
              sums[d - 1] += x == value && static_cast<uint32_t>(i) >= key + (d << shift) ? 1 : 0;
            }
          });
        });
    return uint64_t{value} << 32 | ~(beyond.key - 1);
  }
};

__device__ __forceinline__ float softcapped(float x, float cap) {
  return cap > 0.0f && x > -INFINITY ? cap * tanhf(x / cap) : x;
}

// Standard Gumbel noise of a word's upper 53 bits.
__device__ __forceinline__ double gumbel(uint64_t word) {
  const double uniform = (static_cast<double>(word >> 11) + 0.5) * 0x1p-53;
  return -log(-log(fmin(uniform, 1 - 0x1p-53)));
}

// The same to 1e-5. Above one half from 1 - u, where u would round.
__device__ __forceinline__ float gumbel_estimate(uint64_t word) {
  const uint64_t high = word >> 11;
  constexpr uint64_t kOne = uint64_t{1} << 53;
  const float t = high < kOne / 2
                      ? -logf((static_cast<float>(high) + 0.5f) * 0x1p-53f)
                      : -log1pf(-(static_cast<float>(kOne - 1 - high) + 0.5f) * 0x1p-53f);
  return -logf(t);
}

// Rank of the likeliest token below rank `limit`.
__device__ uint64_t likeliest(const Row& row, uint64_t limit) {
  uint64_t best = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.size; i += kThreads) {
    const uint64_t rank = rank_of(row.values[i], i);
    if (rank < limit && rank > best) best = rank;
  }
  return reduce(best, Max{});
}

// All logprobs that are asked for but the drawn token's; returns log sum exp.
__device__ double write_logprobs(const Row& row, float max, int num_logprobs, DeviceDrawn& drawn) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.size; i += kThreads) {
    sum += static_cast<double>(expf(row.values[i] - max));
  }
  const double log_sum = static_cast<double>(max) + log(reduce(sum, Sum{}));
  uint64_t rank = UINT64_MAX;
  for (int n = 0; n < num_logprobs && n < row.size; ++n) {
    rank = likeliest(row, rank);
    if (threadIdx.x == 0) {
      drawn.top[n] = id_of(rank);
      drawn.top_logprobs[n] = static_cast<float>(row.values[id_of(rank)] - log_sum);
    }
  }
  return log_sum;
}

// The least rank that all cuts keep.
__device__ uint64_t find_edge(const Row& row, const DeviceDraw& draw, float max) {
  uint64_t edge = 0;
  if (draw.top_k > 0 && draw.top_k < row.size) {
    edge = row.edge_of(edge, static_cast<uint64_t>(draw.top_k), [](float) { return uint64_t{1}; });
  }
  if (draw.top_p < 1) {
    const float temperature = static_cast<float>(draw.temperature);
    const auto mass = [=](float x) {
      return static_cast<uint64_t>(expf((x - max) / temperature) * kMassUnit);
    };
    uint64_t total = 0;
    for (int i = static_cast<int>(threadIdx.x); i < row.size; i += kThreads) {
      if (rank_of(row.values[i], i) >= edge) total += mass(row.values[i]);
    }
    total = reduce(total, Sum{});
    const auto target = static_cast<uint64_t>(ceil(draw.top_p * static_cast<double>(total)));
    const uint64_t cut = row.edge_of(edge, target < total ? target : total, mass);
    edge = cut > edge ? cut : edge;
  }
  if (draw.min_p > 0) {
    const double floor = static_cast<double>(max) + draw.temperature * log(draw.min_p);
    auto least = static_cast<float>(floor);  // the least float that is at least `floor`
    if (static_cast<double>(least) < floor) least = nextafterf(least, INFINITY);
    const uint64_t cut = uint64_t{ordered(least)} << 32;
    edge = cut > edge ? cut : edge;
  }
  return edge;
}

// argmax(value / temperature + noise) of the tokens from `edge` up.
__device__ int draw_token(const Row& row, const DeviceDraw& draw, float max, uint64_t edge,
                          float* scores) {
  const PhiloxStream stream(draw.seed, draw.sample, draw.position);
  const float temperature = fmaxf(static_cast<float>(draw.temperature), 1e-30f);
  float best = -INFINITY;
  for (int block = static_cast<int>(threadIdx.x); block * 4 < row.size; block += kThreads) {
    PhiloxStream::Block words{};
    bool has_words = false;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int id = block * 4 + j;
      if (id >= row.size) break;
      float score = -INFINITY;
      const float value = row.values[id];
      if (rank_of(value, id) >= edge) {
        if (!has_words) words = stream.block(static_cast<uint64_t>(block));
        has_words = true;
        score = (value - max) / temperature + gumbel_estimate(words[j]);
      }
      scores[id] = score;
      best = fmaxf(best, score);
    }
  }
  best = reduce(best, Max{});

  double exact_best = -INFINITY;
  int token = INT_MAX;
  for (int block = static_cast<int>(threadIdx.x); block * 4 < row.size; block += kThreads) {
    for (int id = block * 4; id < row.size && id < block * 4 + 4; ++id) {
      if (scores[id] < best - kNearBest) continue;
      const double gap = static_cast<double>(row.values[id]) - static_cast<double>(max);
      const double score = gap / draw.temperature + gumbel(stream.word(static_cast<uint64_t>(id)));
      if (score > exact_best) {  // of equals the lower id came first
        exact_best = score;
        token = id;
      }
    }
  }
  const double winner = reduce(exact_best, Max{});
  const int loser = -INT_MAX;
  return -reduce(exact_best == winner ? -token : loser, Max{});
}

__global__ void __launch_bounds__(kThreads) sample_kernel(const Sample p) {
  let_next_start();
  wait_for_previous();
  const DeviceDraw draw = p.draws[blockIdx.x];
  const float* logits = p.logits + draw.row * p.stride;
  float* values = p.values + blockIdx.x * p.stride;
  DeviceDrawn& drawn = p.drawn[blockIdx.x];
  const Row row{values, p.vocab_size};

  // Softcapped values, and whether all may be sampled from.
  int is_bad = 0;
  const auto store = [&](int id, float value) {
    values[id] = value;
    if (!(value < INFINITY)) is_bad = 1;
  };
  const auto finish = [&](DeviceDrawn::Status status) {
    if (threadIdx.x == 0) drawn.status = status;
  };
  for (int i = static_cast<int>(threadIdx.x); i < p.vocab_size; i += kThreads) {
    if (!(logits[i] < INFINITY)) is_bad = 1;  // the softcap makes a number of infinity
    store(i, softcapped(logits[i], p.softcap));
  }
  if (reduce(is_bad, Max{}) != 0) return finish(DeviceDrawn::kNotANumber);
  uint64_t first = likeliest(row, UINT64_MAX);
  if (values[id_of(first)] == -INFINITY) return finish(DeviceDrawn::kNoneFinite);
  double log_sum = 0;
  if (draw.num_logprobs >= 0) {
    log_sum = write_logprobs(row, values[id_of(first)], draw.num_logprobs, drawn);
  }
  if (draw.num_seen > 0) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < draw.num_seen; i += kThreads) {
      // From the logit, not from the value: a token may have been seen twice.
      const int id = p.seen[draw.first_seen + i];
      const float value = softcapped(logits[id], p.softcap);
      store(id, value > 0 ? value / draw.penalty : value * draw.penalty);
    }
    if (reduce(is_bad, Max{}) != 0) return finish(DeviceDrawn::kNotANumber);
    first = likeliest(row, UINT64_MAX);
    if (values[id_of(first)] == -INFINITY) return finish(DeviceDrawn::kNoneFinite);
  }

  int token = id_of(first);
  if (draw.temperature > 0) {
    const float max = values[token];
    token = draw_token(row, draw, max, find_edge(row, draw, max), p.scores + blockIdx.x * p.stride);
  }
  if (threadIdx.x == 0) {
    drawn.token = token;
    drawn.logprob = static_cast<float>(softcapped(logits[token], p.softcap) - log_sum);
  }
  finish(DeviceDrawn::kGood);
}

}  // namespace

void launch_sample(const Launcher& where, const Sample& p, int num_draws) {
  launch(where, "engine: sampling", sample_kernel, dim3(static_cast<unsigned>(num_draws)), kThreads,
         p);
}

}  // namespace nanochat::engine::cuda
