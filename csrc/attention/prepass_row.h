// Row maths of the pre-pass, shared by the CPU loops and the kernels. F is a float, a double or a
// vector of floats; a row is cut into pairs (d, d + D / 2), which the rotation turns.
//
// With u = R(x), r = (mean(u^2) + eps)^(-1/2) and y = g r u, the gradient is
//   dx = g r R^T(dy - y (y . dy) / (g^2 D)),
// exact for any eps and any tables, since u r = y / g whatever went into r; so y and r are all that
// is saved. It is linear in dy: a factor that dy still lacks may be put into g r.
#pragma once

#include <cmath>

#include "common/dtype.h"

namespace nanochat::attention {

template <typename F>
struct Pair {
  F first, second;  // elements d and d + D / 2
};

template <typename F>
NANOCHAT_HD Pair<F> rotate(Pair<F> x, F cos, F sin) {
  return {x.first * cos + x.second * sin, x.second * cos - x.first * sin};
}

template <typename F>
NANOCHAT_HD Pair<F> rotate_back(Pair<F> y, F cos, F sin) {
  return {y.first * cos - y.second * sin, y.second * cos + y.first * sin};
}

template <typename F>
NANOCHAT_HD F dot(Pair<F> x, Pair<F> y) {
  return x.first * y.first + x.second * y.second;
}

template <typename F>
NANOCHAT_HD F inv_rms(F sum_of_squares, int64_t D, F eps) {
#ifdef __CUDA_ARCH__
  return F(1) / sqrt(sum_of_squares / static_cast<F>(D) + eps);
#else
  return F(1) / std::sqrt(sum_of_squares / static_cast<F>(D) + eps);
#endif
}

// 1 / (g^2 D), of which y . dy makes the projection.
template <typename F>
NANOCHAT_HD F projection_factor(F qk_scale, int64_t D) {
  return F(1) / (qk_scale * qk_scale * static_cast<F>(D));
}

// projection = (y . dy) / (g^2 D), of the whole row; scale = g r.
template <typename F, typename S>
NANOCHAT_HD Pair<F> rope_norm_backward(Pair<F> dy, Pair<F> y, F cos, F sin, S projection, S scale) {
  const Pair<F> du{(dy.first - y.first * projection) * scale,
                   (dy.second - y.second * projection) * scale};
  return rotate_back(du, cos, sin);
}

inline constexpr int kMaxValueGate = 3;  // a closed gate adds nothing, an open one 3 ve

template <typename F>
NANOCHAT_HD F value_gate(F logit) {
#ifdef __CUDA_ARCH__
  return F(kMaxValueGate) / (F(1) + exp(-logit));
#else
  return F(kMaxValueGate) / (F(1) + std::exp(-logit));
#endif
}

// d gate / d logit, from the gate itself.
template <typename F>
NANOCHAT_HD F value_gate_slope(F gate) {
  return gate * (F(1) - gate / F(kMaxValueGate));
}

}  // namespace nanochat::attention
