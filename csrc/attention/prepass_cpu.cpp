// Plain loops over rows: what the operation means. A row is D elements of one head of one token.
// Bound by memory: q, k and v are read once and written once, and the arithmetic of a row hides
// behind that once it runs in vectors.
#include <algorithm>
#include <cmath>

#include "attention/prepass.h"
#include "attention/prepass_row_cpu.h"
#include "common/thread_pool.h"

namespace nanochat::attention {
namespace {

using simd::for_each_step;
using simd::read;
using simd::RowSum;
using simd::write;

template <typename F, typename T>
NANOCHAT_HD Pair<F> rotated_pair(const T* x, const float* cos, const float* sin, int64_t half,
                                 int64_t d) {
  return rotate(read_pair<F>(x, half, d), read<F>(cos + d), read<F>(sin + d));
}

// y = qk_scale * rms_norm(rope(x)); returns the inverse root mean square. Rotates twice: the row is
// in L1, and tables in low precision are no exact rotations, so the norm must see what they make.
template <typename V, typename T>
NANOCHAT_HD Acc<T> rope_norm_row(const T* x, const float* cos, const float* sin, T* y, int64_t D,
                                 Acc<T> qk_scale, Acc<T> eps) {
  const int64_t half = D / 2;
  RowSum<V, Acc<T>> squares;
  for_each_step<V, T>(half, [&](auto tag, int64_t d) NANOCHAT_INLINE_LAMBDA {
    const auto u = rotated_pair<typename decltype(tag)::type>(x, cos, sin, half, d);
    squares.add(dot(u, u));
  });
  const Acc<T> r = inv_rms(squares.total(), D, eps);
  const Acc<T> scale = qk_scale * r;
  for_each_step<V, T>(half, [&](auto tag, int64_t d) NANOCHAT_INLINE_LAMBDA {
    using F = typename decltype(tag)::type;
    const Pair<F> u = rotated_pair<F>(x, cos, sin, half, d);
    write_pair<F>(y, half, d, {u.first * scale, u.second * scale});
  });
  return r;
}

template <typename V, typename T>
NANOCHAT_HD void gate_row(const T* v, const T* ve, Acc<T> logit, T* v_hat, int64_t D) {
  const Acc<T> gate = value_gate(logit);
  for_each_step<V, T>(D, [&](auto tag, int64_t d) NANOCHAT_INLINE_LAMBDA {
    using F = typename decltype(tag)::type;
    write<F>(v_hat + d, read<F>(v + d) + read<F>(ve + d) * gate);
  });
}

// dve = gate * dv_hat; returns the gradient of the logit.
template <typename V, typename T>
NANOCHAT_HD Acc<T> gate_backward_row(const T* dv_hat, const T* ve, Acc<T> logit, T* dve,
                                     int64_t D) {
  const Acc<T> gate = value_gate(logit);
  RowSum<V, Acc<T>> dgate;
  for_each_step<V, T>(D, [&](auto tag, int64_t d) NANOCHAT_INLINE_LAMBDA {
    using F = typename decltype(tag)::type;
    const F dv = read<F>(dv_hat + d);
    dgate.add(dv * read<F>(ve + d));
    write<F>(dve + d, dv * gate);
  });
  return dgate.total() * value_gate_slope(gate);
}

// Calls body(TypeTag<V>{}, b, t) for each token of x, on as many threads as `elements` are worth.
template <typename Body>
void for_each_token(const TensorView& x, int64_t elements, const Placement& where,
                    const Body& body) {
  // Starting a thread costs about 20 us, the time of this many elements.
  constexpr int64_t kMinElementsPerThread = 1 << 16;
  const int64_t B = x.sizes[0], T = x.sizes[1];
  const int64_t worth = std::max<int64_t>(1, elements / kMinElementsPerThread);
  parallel_for(B * T, static_cast<int>(std::min<int64_t>(where.num_threads, worth)),
               [&](int64_t begin, int64_t end) {
                 run_at_level(where.cpu_level, [&](auto lanes) NANOCHAT_INLINE_LAMBDA {
                   using V = simd::Vector<lanes>;
                   for (int64_t i = begin; i < end; ++i) body(TypeTag<V>{}, i / T, i % T);
                 });
               });
}

int64_t num_elements(const TensorView& x) {
  return x.sizes[0] * x.sizes[1] * x.sizes[2] * x.sizes[3];
}

}  // namespace

void prepass_forward_cpu(const PrepassForward& p, const Placement& where) {
  const RopeNorm& norm = p.rope_norm;
  const int64_t elements = num_elements(p.q) + 2 * num_elements(p.k);
  dispatch_floating(p.q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const int64_t H = p.q.sizes[2], Hkv = p.k.sizes[2], D = p.q.sizes[3];
    const A scale = static_cast<A>(norm.qk_scale), eps = static_cast<A>(p.eps);
    for_each_token(
        p.q, elements, where, [&](auto vector, int64_t b, int64_t t) NANOCHAT_INLINE_LAMBDA {
          using V = typename decltype(vector)::type;
          const float* cos = at<const float>(norm.cos, b, t);
          const float* sin = at<const float>(norm.sin, b, t);
          for (int64_t h = 0; h < H; ++h) {
            *at<A>(norm.q_inv_rms, b, t, h) = rope_norm_row<V>(
                at<const T>(p.q, b, t, h), cos, sin, at<T>(p.q_hat, b, t, h), D, scale, eps);
          }
          for (int64_t h = 0; h < Hkv; ++h) {
            *at<A>(norm.k_inv_rms, b, t, h) = rope_norm_row<V>(
                at<const T>(p.k, b, t, h), cos, sin, at<T>(p.k_hat, b, t, h), D, scale, eps);
            if (p.ve.present()) {
              gate_row<V>(at<const T>(p.v, b, t, h), at<const T>(p.ve, b, t, h),
                          load(*at<const T>(p.gate, b, t, h)), at<T>(p.v_hat, b, t, h), D);
            }
          }
        });
  });
}

void prepass_backward_cpu(const PrepassBackward& p, const Placement& where) {
  const RopeNorm& norm = p.rope_norm;
  const int64_t elements = num_elements(p.q_hat) + num_elements(p.k_hat);
  dispatch_floating(p.q_hat.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const int64_t H = p.q_hat.sizes[2], Hkv = p.k_hat.sizes[2], D = p.q_hat.sizes[3];
    const A scale = static_cast<A>(norm.qk_scale), factor = projection_factor(scale, D);
    for_each_token(
        p.q_hat, elements, where, [&](auto vector, int64_t b, int64_t t) NANOCHAT_INLINE_LAMBDA {
          using V = typename decltype(vector)::type;
          const float* cos = at<const float>(norm.cos, b, t);
          const float* sin = at<const float>(norm.sin, b, t);
          for (int64_t h = 0; h < H; ++h) {
            rope_norm_backward_row<V>(at<const T>(p.dq_hat, b, t, h), at<const T>(p.q_hat, b, t, h),
                                      cos, sin, at<T>(p.dq, b, t, h), D, factor,
                                      scale * *at<const A>(norm.q_inv_rms, b, t, h));
          }
          for (int64_t h = 0; h < Hkv; ++h) {
            rope_norm_backward_row<V>(at<const T>(p.dk_hat, b, t, h), at<const T>(p.k_hat, b, t, h),
                                      cos, sin, at<T>(p.dk, b, t, h), D, factor,
                                      scale * *at<const A>(norm.k_inv_rms, b, t, h));
          }
        });
  });
}

void gate_backward_cpu(const GateBackward& p, const Placement& where) {
  dispatch_floating(p.ve.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t Hkv = p.ve.sizes[2], D = p.ve.sizes[3];
    for_each_token(p.ve, num_elements(p.ve), where,
                   [&](auto vector, int64_t b, int64_t t) NANOCHAT_INLINE_LAMBDA {
                     using V = typename decltype(vector)::type;
                     for (int64_t h = 0; h < Hkv; ++h) {
                       store(*at<T>(p.dgate, b, t, h),
                             gate_backward_row<V>(
                                 at<const T>(p.dv_hat, b, t, h), at<const T>(p.ve, b, t, h),
                                 load(*at<const T>(p.gate, b, t, h)), at<T>(p.dve, b, t, h), D));
                     }
                   });
  });
}

}  // namespace nanochat::attention
