// Plain loops over rows: what the operation means. A row is D elements of one head of one token.
// Bound by memory: q, k and v are read once and written once, and the arithmetic of a row hides
// behind that once it runs in vectors.
#include <algorithm>
#include <cmath>

#include "attention/prepass.h"
#include "attention/prepass_row.h"
#include "common/simd.h"
#include "common/thread_pool.h"

namespace nanochat::attention {
namespace {

using simd::for_each_step;
using simd::read;
using simd::RowSum;
using simd::write;

template <typename F, typename T>
NANOCHAT_HD Pair<F> read_pair(const T* row, int64_t half, int64_t d) {
  return {read<F>(row + d), read<F>(row + half + d)};
}

template <typename F, typename T>
NANOCHAT_HD void write_pair(T* row, int64_t half, int64_t d, Pair<F> x) {
  write<F>(row + d, x.first);
  write<F>(row + half + d, x.second);
}

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
NANOCHAT_HD void rope_norm_backward_row(const T* dy, const T* y, Acc<T> r, const float* cos,
                                        const float* sin, T* dx, int64_t D, Acc<T> qk_scale) {
  const int64_t half = D / 2;
  RowSum<V, Acc<T>> y_dot_dy;
  for_each_step<V, T>(half, [&](auto tag, int64_t d) NANOCHAT_INLINE_LAMBDA {
    using F = typename decltype(tag)::type;
    y_dot_dy.add(dot(read_pair<F>(dy, half, d), read_pair<F>(y, half, d)));
  });
  const Acc<T> projection = y_dot_dy.total() / (qk_scale * qk_scale * static_cast<Acc<T>>(D));
  const Acc<T> scale = qk_scale * r;
  for_each_step<V, T>(half, [&](auto tag, int64_t d) NANOCHAT_INLINE_LAMBDA {
    using F = typename decltype(tag)::type;
    write_pair<F>(dx, half, d,
                  rope_norm_backward(read_pair<F>(dy, half, d), read_pair<F>(y, half, d),
                                     read<F>(cos + d), read<F>(sin + d), projection, scale));
  });
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

// Address of the row (b, t) of a table, and of the row or element (b, t, h) of a tensor.
template <typename T>
NANOCHAT_HD T* at(const TensorView& x, int64_t b, int64_t t) {
  return x.as<T>() + b * x.strides[0] + t * x.strides[1];
}

template <typename T>
NANOCHAT_HD T* at(const TensorView& x, int64_t b, int64_t t, int64_t h) {
  return at<T>(x, b, t) + h * x.strides[2];
}

// Calls body(TypeTag<V>{}, b, t) for each token, on as many threads as the work is worth.
template <typename Body>
void for_each_token(const TensorView& q, const TensorView& k, const Placement& where,
                    const Body& body) {
  // Starting a thread costs about 20 us, the time of this many elements.
  constexpr int64_t kMinElementsPerThread = 1 << 16;
  const int64_t B = q.sizes[0], T = q.sizes[1];
  const int64_t elements = B * T * (q.sizes[2] + 2 * k.sizes[2]) * q.sizes[3];
  const int64_t worth = std::max<int64_t>(1, elements / kMinElementsPerThread);
  parallel_for(B * T, static_cast<int>(std::min<int64_t>(where.num_threads, worth)),
               [&](int64_t begin, int64_t end) {
                 run_at_level(where.cpu_level, [&](auto lanes) NANOCHAT_INLINE_LAMBDA {
                   using V = simd::Vector<lanes>;
                   for (int64_t i = begin; i < end; ++i) body(TypeTag<V>{}, i / T, i % T);
                 });
               });
}

}  // namespace

void prepass_forward_cpu(const PrepassForward& p, const Placement& where) {
  dispatch_floating(p.q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const int64_t H = p.q.sizes[2], Hkv = p.k.sizes[2], D = p.q.sizes[3];
    const A scale = static_cast<A>(p.qk_scale), eps = static_cast<A>(p.eps);
    for_each_token(p.q, p.k, where, [&](auto vector, int64_t b, int64_t t) NANOCHAT_INLINE_LAMBDA {
      using V = typename decltype(vector)::type;
      const float* cos = at<const float>(p.cos, b, t);
      const float* sin = at<const float>(p.sin, b, t);
      for (int64_t h = 0; h < H; ++h) {
        *at<A>(p.q_inv_rms, b, t, h) = rope_norm_row<V>(at<const T>(p.q, b, t, h), cos, sin,
                                                        at<T>(p.q_hat, b, t, h), D, scale, eps);
      }
      for (int64_t h = 0; h < Hkv; ++h) {
        *at<A>(p.k_inv_rms, b, t, h) = rope_norm_row<V>(at<const T>(p.k, b, t, h), cos, sin,
                                                        at<T>(p.k_hat, b, t, h), D, scale, eps);
        if (p.ve.present()) {
          gate_row<V>(at<const T>(p.v, b, t, h), at<const T>(p.ve, b, t, h),
                      load(*at<const T>(p.gate, b, t, h)), at<T>(p.v_hat, b, t, h), D);
        }
      }
    });
  });
}

void prepass_backward_cpu(const PrepassBackward& p, const Placement& where) {
  dispatch_floating(p.q_hat.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const int64_t H = p.q_hat.sizes[2], Hkv = p.k_hat.sizes[2], D = p.q_hat.sizes[3];
    const A scale = static_cast<A>(p.qk_scale);
    for_each_token(
        p.q_hat, p.k_hat, where, [&](auto vector, int64_t b, int64_t t) NANOCHAT_INLINE_LAMBDA {
          using V = typename decltype(vector)::type;
          const float* cos = at<const float>(p.cos, b, t);
          const float* sin = at<const float>(p.sin, b, t);
          for (int64_t h = 0; h < H; ++h) {
            rope_norm_backward_row<V>(at<const T>(p.dq_hat, b, t, h), at<const T>(p.q_hat, b, t, h),
                                      *at<const A>(p.q_inv_rms, b, t, h), cos, sin,
                                      at<T>(p.dq, b, t, h), D, scale);
          }
          for (int64_t h = 0; h < Hkv; ++h) {
            rope_norm_backward_row<V>(at<const T>(p.dk_hat, b, t, h), at<const T>(p.k_hat, b, t, h),
                                      *at<const A>(p.k_inv_rms, b, t, h), cos, sin,
                                      at<T>(p.dk, b, t, h), D, scale);
            if (p.ve.present()) {
              store(*at<T>(p.dgate, b, t, h),
                    gate_backward_row<V>(at<const T>(p.dv_hat, b, t, h), at<const T>(p.ve, b, t, h),
                                         load(*at<const T>(p.gate, b, t, h)), at<T>(p.dve, b, t, h),
                                         D));
            }
          }
        });
  });
}

}  // namespace nanochat::attention
