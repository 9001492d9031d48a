// The maths of the step outside its products, for one element or one matrix at a time; the same on
// host and device. F is float or a vector of simd.h.
#pragma once

#include <cmath>

#include "common/dtype.h"

namespace nanochat::muon {

inline constexpr float kMinNorm = 1e-6f;     // a dead row or a zero gradient becomes zero, not NaN
inline constexpr float kMinSecond = 1e-10f;  // of a running mean of squares, and of a norm
inline constexpr float kSafetyFactor = 1.01f;  // singular values begin below 1 / 1.01

// NaN passes, unlike through fmaxf.
NANOCHAT_HD float at_least(float x, float least) {
  return x < least ? least : x;
}

// The new momentum and the gradient with a look ahead along it.
struct Momentum {
  float rest;  // 1 - mu, of which mu in fp32 has lost digits

  explicit Momentum(double mu) : rest(static_cast<float>(1.0 - mu)) {}

  template <typename F>
  NANOCHAT_HD F buffer(F old, F grad) const {
    return old + (grad - old) * rest;
  }
  template <typename F>
  NANOCHAT_HD F nesterov(F grad, F buffer) const {
    return buffer + (grad - buffer) * rest;
  }
};

// Rows are scaled to norm 1, which needs nothing but the row; what is left of MuonEq and of the
// scaling of the whole is one factor for the matrix. It goes into the first polynomial.
//   sum_squares  sum over rows of norm^2
//   sum_live     sum over rows of (norm / max(norm, kMinNorm))^2: the rows that are not dead
NANOCHAT_HD float start_scale(float sum_squares, float sum_live, int64_t num_rows) {
  const float mean_norm = std::sqrt(sum_squares / static_cast<float>(num_rows));
  return mean_norm / (kSafetyFactor * mean_norm * std::sqrt(sum_live) + kMinNorm);
}

// From the squares of X to the factor of each row (or column) of the update.
struct SecondMoment {
  float scale;       // Muon+: from X to Frobenius norm sqrt(min(m, n))
  float norm;        // of the scaled X
  float rest;        // 1 - beta2
  float inv_length;  // 1 / elements of a row (or column)

  NANOCHAT_HD SecondMoment(float sum_squares, int64_t m, int64_t n, float one_minus_beta2)
      : scale(std::sqrt(static_cast<float>(m < n ? m : n)) /
              at_least(std::sqrt(sum_squares), kMinNorm)),
        norm(scale * std::sqrt(sum_squares)),
        rest(one_minus_beta2),
        inv_length(1.0f / static_cast<float>(m < n ? m : n)) {}

  // Moves the running mean and returns the factor, up to the common one below.
  NANOCHAT_HD float factor(float squares, float& second) const {
    const float mean = scale * scale * squares * inv_length;
    second += (mean - second) * rest;
    return scale / std::sqrt(at_least(second, kMinSecond));
  }
  // The factor that keeps the norm; sum_squares is that of the damped X.
  NANOCHAT_HD float common(float sum_squares) const {
    return norm / at_least(std::sqrt(sum_squares), kMinSecond);
  }
};

// Cautious decay: only weights that the update moves towards zero.
struct Update {
  float lr;
  float weight_decay;

  template <typename F>
  NANOCHAT_HD F param(F p, F g) const {
    const F zero = g - g;  // NaN stays NaN
    return p - (g + (g * p >= zero ? p : zero) * weight_decay) * lr;
  }
};

NANOCHAT_HD float lr_factor(int64_t m, int64_t n) {
  return m > n ? std::sqrt(static_cast<float>(m) / static_cast<float>(n)) : 1.0f;
}

}  // namespace nanochat::muon
