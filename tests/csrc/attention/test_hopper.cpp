// The Hopper kernels in their own source, on the host (cuda_on_host), against fp64 loops: every
// length, window and grouping that moves a tile's edge, in views with strides of their own, with
// NaN in all memory that must not be read or written.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "attention/hopper.h"
#include "common/cuda/sm90.cuh"
#include "raw_rows.h"
#include "require.h"

namespace nanochat::attention {
namespace {

constexpr BFloat16 kPoison{0x7fc0};

struct Shape {
  int B, T, H, Hkv, D, window;
};

// (B, T, H, D) inside of rows that are wider: heads of another tensor lie between.
struct Tensor {
  int B, T, H, D;
  std::vector<BFloat16> data;

  Tensor(int B_, int T_, int H_, int D_)
      : B(B_), T(T_), H(H_), D(D_), data(static_cast<size_t>(B_ * T_ * (H_ + 1) * D_), kPoison) {}

  [[nodiscard]] size_t index(int b, int t, int h, int d) const {
    return static_cast<size_t>(((b * T + t) * (H + 1) + h) * D + d);
  }
  [[nodiscard]] double at(int b, int t, int h, int d) const {
    return to_float(data[index(b, t, h, d)]);
  }
  [[nodiscard]] TensorView view() {
    return {.data = data.data(),
            .dtype = DType::kBFloat16,
            .rank = 4,
            .sizes = {B, T, H, D},
            .strides = {int64_t{T} * (H + 1) * D, int64_t{H + 1} * D, D, 1}};
  }
  // What lies between was not touched.
  [[nodiscard]] bool is_kept() const {
    for (int row = 0; row < B * T; ++row) {
      for (int d = 0; d < D; ++d) {
        if (data[static_cast<size_t>((row * (H + 1) + H) * D + d)].bits != kPoison.bits)
          return false;
      }
    }
    return true;
  }
};

Tensor random_tensor(int B, int T, int H, int D, float size, std::mt19937& random) {
  Tensor x(B, T, H, D);
  std::normal_distribution<float> normal(0.0f, size);
  for (int b = 0; b < B; ++b) {
    for (int t = 0; t < T; ++t) {
      for (int h = 0; h < H; ++h) {
        for (int d = 0; d < D; ++d) x.data[x.index(b, t, h, d)] = to_bfloat16(normal(random));
      }
    }
  }
  return x;
}

// Rows of different sizes.
Tensor raw_tensor(int B, int T, int H, int D, std::mt19937& random) {
  Tensor x = random_tensor(B, T, H, D, 1.0f, random);
  std::uniform_real_distribution<float> sizes(0.5f, 2.0f);
  for (int b = 0; b < B; ++b) {
    for (int t = 0; t < T; ++t) {
      for (int h = 0; h < H; ++h) {
        const float size = sizes(random);
        for (int d = 0; d < D; ++d) {
          BFloat16& element = x.data[x.index(b, t, h, d)];
          element = to_bfloat16(size * to_float(element));
        }
      }
    }
  }
  return x;
}

Row row_of(const Tensor& x, int b, int t, int h) {
  Row row(static_cast<size_t>(x.D));
  for (int d = 0; d < x.D; ++d) row[d] = x.at(b, t, h, d);
  return row;
}

// What the pre-pass makes of x.
Tensor normed(const Tensor& x, RawRows& rows, Numbers& inv_rms) {
  Tensor y(x.B, x.T, x.H, x.D);
  for (int b = 0; b < x.B; ++b) {
    for (int t = 0; t < x.T; ++t) {
      for (int h = 0; h < x.H; ++h) {
        const Row row = rows.normed(row_of(x, b, t, h), b, t, inv_rms.at(b, t, h));
        for (int d = 0; d < x.D; ++d) {
          y.data[y.index(b, t, h, d)] = to_bfloat16(static_cast<float>(row[d]));
        }
      }
    }
  }
  return y;
}

// Of one head of x, from those of its normed rows.
std::vector<double> raw_gradients(const Tensor& x, RawRows& rows, const std::vector<double>& dy,
                                  int b, int h) {
  std::vector<double> dx;
  for (int t = 0; t < x.T; ++t) {
    const auto first = dy.begin() + t * x.D;
    const Row row = rows.gradient(row_of(x, b, t, h), {first, first + x.D}, b, t);
    dx.insert(dx.end(), row.begin(), row.end());
  }
  return dx;
}

struct Stats {
  std::vector<float> data;
  int B, H, T;
  Stats(int B_, int H_, int T_)
      : data(static_cast<size_t>(B_ * H_ * T_), std::numeric_limits<float>::quiet_NaN()),
        B(B_),
        H(H_),
        T(T_) {}
  float& at(int b, int h, int t) { return data[static_cast<size_t>((b * H + h) * T + t)]; }
  [[nodiscard]] TensorView view() {
    return {.data = data.data(),
            .dtype = DType::kFloat32,
            .rank = 3,
            .sizes = {B, H, T},
            .strides = {int64_t{H} * T, T, 1}};
  }
};

// The sum of dq, in memory that is longer at both ends.
struct Sum {
  static constexpr int kMargin = 64;
  std::vector<float> data;
  std::array<int64_t, 4> sizes;

  Sum(int B, int H, int T, int D) : sizes{B, H, (T + kDqSumRows - 1) / kDqSumRows * kDqSumRows, D} {
    const int64_t size = sizes[0] * sizes[1] * sizes[2] * sizes[3];
    data.assign(static_cast<size_t>(size + 2 * kMargin), std::numeric_limits<float>::quiet_NaN());
  }
  [[nodiscard]] TensorView view() {
    const auto [B, H, T, D] = sizes;
    return {.data = data.data() + kMargin,
            .dtype = DType::kFloat32,
            .rank = 4,
            .sizes = {B, H, T, D},
            .strides = {H * T * D, T * D, D, 1}};
  }
  [[nodiscard]] bool is_kept() const {
    const auto is_nan = [](float x) { return std::isnan(x); };
    return std::all_of(data.begin(), data.begin() + kMargin, is_nan) &&
           std::all_of(data.end() - kMargin, data.end(), is_nan);
  }
};

// Forward and backward of one (batch, head) in fp64; dk and dv are this head's share.
struct Exact {
  int T, D;
  std::vector<double> out, lse, delta, dq, dk, dv;

  Exact(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dout, int b, int h,
        int window, double scale)
      : T(q.T), D(q.D) {
    const auto cells = static_cast<size_t>(T * D), rows = static_cast<size_t>(T);
    out.assign(cells, 0.0);
    dq = dk = dv = out;
    lse.assign(rows, 0.0);
    delta = lse;
    const int kv = h / (q.H / k.H);
    const auto dot = [&](const Tensor& x, int i, int hx, const Tensor& y, int j, int hy) {
      double sum = 0.0;
      for (int d = 0; d < D; ++d) sum += x.at(b, i, hx, d) * y.at(b, j, hy, d);
      return sum;
    };
    for (int i = 0; i < T; ++i) {
      const int first = std::max(0, i - window);
      std::vector<double> p(rows), dp(rows);
      double largest = -INFINITY, sum = 0.0;
      for (int j = first; j <= i; ++j) {
        p[j] = scale * dot(q, i, h, k, j, kv);
        largest = std::max(largest, p[j]);
      }
      for (int j = first; j <= i; ++j) sum += std::exp(p[j] - largest);
      lse[i] = largest + std::log(sum);
      for (int j = first; j <= i; ++j) {
        p[j] = std::exp(p[j] - lse[i]);
        dp[j] = dot(dout, i, h, v, j, kv);
        delta[i] += p[j] * dp[j];
        for (int d = 0; d < D; ++d) out[i * D + d] += p[j] * v.at(b, j, kv, d);
      }
      for (int j = first; j <= i; ++j) {
        const double ds = p[j] * (dp[j] - delta[i]);
        for (int d = 0; d < D; ++d) {
          dv[j * D + d] += p[j] * dout.at(b, i, h, d);
          dq[i * D + d] += scale * ds * k.at(b, j, kv, d);
          dk[j * D + d] += scale * ds * q.at(b, i, h, d);
        }
      }
    }
  }
};

// Sum of squared errors and of squares.
struct Error {
  double error = 0.0, square = 0.0;
  int64_t count = 0;
  void add(double got, double want) {
    REQUIRE(std::isfinite(got));
    ++count;
    error += (got - want) * (got - want);
    square += want * want;
  }
  [[nodiscard]] bool is_within(double relative) const {
    return std::sqrt(error) <= relative * std::sqrt(square);
  }
  [[nodiscard]] double rms() const { return std::sqrt(error / static_cast<double>(count)); }
};

// Everything against fp64; raw_q and raw_k are what q and k were made of.
void check(const Shape& shape, double scale, const Tensor& raw_q, const Tensor& raw_k,
           RawRows& rows, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dout,
           const Tensor& out, Stats& lse, Stats& delta, const Tensor& dq, const Tensor& dk,
           const Tensor& dv) {
  const auto [B, T, H, Hkv, D, window] = shape;
  Error out_error, dq_error, dk_error, dv_error;
  const auto add = [&](Error& error, const Tensor& got, int b, int h,
                       const std::vector<double>& want) {
    for (int t = 0; t < T; ++t) {
      for (int d = 0; d < D; ++d) error.add(got.at(b, t, h, d), want[t * D + d]);
    }
  };
  for (int b = 0; b < B; ++b) {
    for (int kv = 0; kv < Hkv; ++kv) {
      const auto cells = static_cast<size_t>(T * D);
      std::vector<double> want_dk(cells), want_dv(cells);
      for (int h = kv * (H / Hkv); h < (kv + 1) * (H / Hkv); ++h) {
        const Exact exact(q, k, v, dout, b, h, window, scale);
        for (int t = 0; t < T; ++t) {
          REQUIRE(std::abs(lse.at(b, h, t) - exact.lse[t]) < 2e-3);
          double product = 0.0;
          for (int d = 0; d < D; ++d) product += dout.at(b, t, h, d) * out.at(b, t, h, d);
          REQUIRE(std::abs(delta.at(b, h, t) - product) < 1e-4);
        }
        add(out_error, out, b, h, exact.out);
        add(dq_error, dq, b, h, raw_gradients(raw_q, rows, exact.dq, b, h));
        std::ranges::transform(want_dk, exact.dk, want_dk.begin(), std::plus{});
        std::ranges::transform(want_dv, exact.dv, want_dv.begin(), std::plus{});
      }
      add(dk_error, dk, b, kv, raw_gradients(raw_k, rows, want_dk, b, kv));
      add(dv_error, dv, b, kv, want_dv);
    }
  }
  REQUIRE(out_error.is_within(4e-3));
  REQUIRE(dv_error.is_within(4e-3));
  if (window == 0) {  // the gradients are 0, and what remains is the rounding of out
    REQUIRE(dq_error.rms() < 4e-3 && dk_error.rms() < 4e-3);
  } else {
    REQUIRE(dq_error.is_within(4e-3) && dk_error.is_within(4e-3));
  }
}

void test_shape(const Shape& shape, bool is_bounded) {
  const auto [B, T, H, Hkv, D, window] = shape;
  std::mt19937 random(static_cast<unsigned>(T * 1000 + window));
  const Tensor raw_q = raw_tensor(B, T, H, D, random), raw_k = raw_tensor(B, T, Hkv, D, random);
  RawRows rows(B, T, H, Hkv, D, random);
  Tensor q = normed(raw_q, rows, rows.q_inv_rms), k = normed(raw_k, rows, rows.k_inv_rms);
  Tensor v = random_tensor(B, T, Hkv, D, 1.0f, random);
  Tensor dout = random_tensor(B, T, H, D, 1.0f, random), out(B, T, H, D);
  Stats lse(B, H, T);
  const double scale = 1.0 / std::sqrt(D);
  double bound = 0.0;
  if (is_bounded) bound = kQkScale * kQkScale * std::sqrt(D);

  const Placement where{.is_cuda = true, .allow_hopper = true};
  REQUIRE(hopper_forward({.q = q.view(),
                          .k = k.view(),
                          .v = v.view(),
                          .out = out.view(),
                          .lse = lse.view(),
                          .window = window,
                          .scale = scale,
                          .score_bound = bound},
                         where));
  for (const bool is_deterministic : {true, false}) {
    Tensor dq(B, T, H, D), dk(B, T, Hkv, D), dv(B, T, Hkv, D);
    Stats delta(B, H, T);
    Sum sum(B, H, T, D);
    REQUIRE(hopper_backward({.dout = dout.view(),
                             .q = q.view(),
                             .k = k.view(),
                             .v = v.view(),
                             .out = out.view(),
                             .lse = lse.view(),
                             .rope_norm = rows.rope_norm(),
                             .delta = delta.view(),
                             .dq = dq.view(),
                             .dk = dk.view(),
                             .dv = dv.view(),
                             .window = window,
                             .scale = scale,
                             .is_deterministic = is_deterministic,
                             .dq_sum = is_deterministic ? TensorView{} : sum.view()},
                            where));
    check(shape, scale, raw_q, raw_k, rows, q, k, v, dout, out, lse, delta, dq, dk, dv);
    for (const Tensor* x : {&out, &dq, &dk, &dv}) REQUIRE(x->is_kept());
    REQUIRE(sum.is_kept());
  }
}

}  // namespace
}  // namespace nanochat::attention

int main() {
  using namespace nanochat;
  constexpr int kAll = 1 << 20;
  int number = 0;  // loads at once and late, with a bound and without, heads shared and not
  for (const int D : {64, 128}) {
    for (const int T : {64, 100, 128, 200, 300}) {
      for (const int window : {0, 37, 127, 128, kAll}) {
        cuda::tma_loads = static_cast<cuda::Loads>(number % 3);
        cuda_on_host::Block::late_warp = number * 5 % 13 - 1;
        attention::test_shape({1, T, 2, 1 + number / 4 % 2, D, window}, number / 2 % 2 == 0);
        ++number;
      }
    }
    // Rings that come round more than once; loads that overwrite what is released too early, or
    // that nobody waits for.
    using cuda::Loads;
    for (const Loads loads : {Loads::kAtOnce, Loads::kOldestFirst, Loads::kNewestFirst}) {
      cuda::tma_loads = loads;
      cuda_on_host::Block::late_warp = 5;
      attention::test_shape({loads == Loads::kAtOnce ? 2 : 1, 600, 2, 1, D, kAll}, false);
    }
  }
}
