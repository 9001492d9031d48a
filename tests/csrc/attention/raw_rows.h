// What the pre-pass does to q and k, and its gradient, in fp64 and from its definition: what the
// kernels, which have the normed rows alone, are held against.
#pragma once

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "attention/prepass.h"

namespace nanochat::attention {

inline constexpr double kQkScale = 1.2;
inline constexpr double kEps = 0.05;  // large enough to be seen

// A table or one number to a row, (B, T, n) in rows that are longer, with NaN between.
struct Numbers {
  static constexpr int64_t kGap = 4;
  int64_t B, T, n;
  std::vector<float> data;

  Numbers(int64_t B_, int64_t T_, int64_t n_)
      : B(B_),
        T(T_),
        n(n_),
        data(static_cast<size_t>(B * T * (n + kGap)), std::numeric_limits<float>::quiet_NaN()) {}
  float& at(int64_t b, int64_t t, int64_t i) {
    return data[static_cast<size_t>((b * T + t) * (n + kGap) + i)];
  }
  [[nodiscard]] TensorView view() {
    return {.data = data.data(),
            .dtype = DType::kFloat32,
            .rank = 3,
            .sizes = {B, T, n},
            .strides = {T * (n + kGap), n + kGap, 1}};
  }
};

using Row = std::vector<double>;

struct RawRows {
  int64_t B, T, D;
  Numbers cos, sin, q_inv_rms, k_inv_rms;

  // Angles as coarse as bf16 tables have them, which are no exact rotations.
  RawRows(int64_t B_, int64_t T_, int64_t H, int64_t Hkv, int64_t D_, std::mt19937& random)
      : B(B_),
        T(T_),
        D(D_),
        cos(B, T, D / 2),
        sin(B, T, D / 2),
        q_inv_rms(B, T, H),
        k_inv_rms(B, T, Hkv) {
    std::uniform_real_distribution<float> angles(0.0f, 6.28f);
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t t = 0; t < T; ++t) {
        for (int64_t d = 0; d < D / 2; ++d) {
          const float angle = angles(random);
          cos.at(b, t, d) = to_float(to_bfloat16(std::cos(angle)));
          sin.at(b, t, d) = to_float(to_bfloat16(std::sin(angle)));
        }
      }
    }
  }

  [[nodiscard]] RopeNorm rope_norm() {
    return {.cos = cos.view(),
            .sin = sin.view(),
            .q_inv_rms = q_inv_rms.view(),
            .k_inv_rms = k_inv_rms.view(),
            .qk_scale = kQkScale};
  }

  [[nodiscard]] Row rotated(const Row& x, int64_t b, int64_t t) {
    Row u(x.size());
    for (int64_t d = 0; d < D / 2; ++d) {
      const double c = cos.at(b, t, d), s = sin.at(b, t, d);
      u[d] = x[d] * c + x[d + D / 2] * s;
      u[d + D / 2] = x[d + D / 2] * c - x[d] * s;
    }
    return u;
  }

  [[nodiscard]] double inverse_rms(const Row& u) const {
    double squares = 0.0;
    for (const double x : u) squares += x * x;
    return 1.0 / std::sqrt(squares / static_cast<double>(D) + kEps);
  }

  // kQkScale rms_norm(rope(x)); leaves the inverse root mean square in `r`.
  [[nodiscard]] Row normed(const Row& x, int64_t b, int64_t t, float& r) {
    Row u = rotated(x, b, t);
    const double inverse = inverse_rms(u);
    r = static_cast<float>(inverse);
    for (double& y : u) y *= kQkScale * inverse;
    return u;
  }

  // Of x, from that of its normed row.
  [[nodiscard]] Row gradient(const Row& x, const Row& dy, int64_t b, int64_t t) {
    const Row u = rotated(x, b, t);
    const double r = inverse_rms(u);
    double product = 0.0;
    for (int64_t d = 0; d < D; ++d) product += u[d] * dy[d];
    Row du(u.size()), dx(u.size());
    for (int64_t d = 0; d < D; ++d) {
      du[d] = kQkScale * r * (dy[d] - u[d] * r * r * product / static_cast<double>(D));
    }
    for (int64_t d = 0; d < D / 2; ++d) {
      const double c = cos.at(b, t, d), s = sin.at(b, t, d);
      dx[d] = du[d] * c - du[d + D / 2] * s;
      dx[d + D / 2] = du[d + D / 2] * c + du[d] * s;
    }
    return dx;
  }
};

}  // namespace nanochat::attention
