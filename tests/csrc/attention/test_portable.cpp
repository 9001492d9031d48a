// The portable CUDA kernels of attention, run on the host, against plain fp64 on the same bf16
// inputs. What a kernel must not read is NaN, and so is all that it must write or leave alone.
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "attention/portable.h"
#include "raw_rows.h"
#include "require.h"

namespace {

using namespace nanochat;

constexpr uint16_t kPoison = 0xffff;  // a NaN that no rounding makes
constexpr float kPoisonFloat = -0x1.badbadp+99f;

struct Case {
  int64_t B, T, H, Hkv, D;
  int64_t window = 0;
  bool is_bounded = false;
  int64_t padding = 0;  // elements between rows that belong to nobody
};

// (B, T, H, D) bf16 with holes: `padding` elements after each head, token and batch.
struct Rows {
  Rows(const Case& c, int64_t num_heads)
      : T(c.T),
        H(num_heads),
        D(c.D),
        head(D + c.padding),
        token(H * head + c.padding),
        batch(T * token + c.padding),
        bits(c.B * batch, kPoison) {}

  [[nodiscard]] int64_t at(int64_t b, int64_t t, int64_t h, int64_t d) const {
    return b * batch + t * token + h * head + d;
  }
  [[nodiscard]] double operator()(int64_t b, int64_t t, int64_t h, int64_t d) const {
    return to_float(BFloat16{bits[at(b, t, h, d)]});
  }
  [[nodiscard]] TensorView view() {
    return {.data = bits.data(),
            .dtype = DType::kBFloat16,
            .rank = 4,
            .sizes = {static_cast<int64_t>(bits.size()) / batch, T, H, D},
            .strides = {batch, token, head, 1}};
  }

  template <typename F>
  void for_each(const F& f) {
    for (int64_t b = 0; b < static_cast<int64_t>(bits.size()) / batch; ++b) {
      for (int64_t t = 0; t < T; ++t) {
        for (int64_t h = 0; h < H; ++h) {
          for (int64_t d = 0; d < D; ++d) f(b, t, h, d);
        }
      }
    }
  }

  void fill(std::mt19937& rng, double deviation) {
    std::normal_distribution<float> normal(0.0f, static_cast<float>(deviation));
    for_each([&](auto... i) { bits[at(i...)] = to_bfloat16(normal(rng)).bits; });
  }

  [[nodiscard]] attention::Row row(int64_t b, int64_t t, int64_t h) const {
    attention::Row x(static_cast<size_t>(D));
    for (int64_t d = 0; d < D; ++d) x[d] = (*this)(b, t, h, d);
    return x;
  }

  // What the pre-pass makes of `raw`.
  void fill_normed(const Rows& raw, attention::RawRows& rows, attention::Numbers& inv_rms) {
    for_each([&](int64_t b, int64_t t, int64_t h, int64_t d) {
      if (d > 0) return;
      const attention::Row y = rows.normed(raw.row(b, t, h), b, t, inv_rms.at(b, t, h));
      for (int64_t i = 0; i < D; ++i) {
        bits[at(b, t, h, i)] = to_bfloat16(static_cast<float>(y[i])).bits;
      }
    });
  }

  // All inside was written, nothing outside.
  void require_written() {
    std::vector<bool> is_inside(bits.size());
    for_each([&](auto... i) {
      is_inside[at(i...)] = true;
      REQUIRE(std::isfinite((*this)(i...)));
    });
    for (size_t i = 0; i < bits.size(); ++i) REQUIRE(is_inside[i] || bits[i] == kPoison);
  }

  int64_t T, H, D, head, token, batch;
  std::vector<uint16_t> bits;
};

// (B, H, T) fp32 between two numbers that must stay.
struct Statistics {
  explicit Statistics(const Case& c)
      : B(c.B), H(c.H), T(c.T), values(B * H * T + 2, kPoisonFloat) {}

  [[nodiscard]] TensorView view() {
    return {.data = values.data() + 1, .rank = 3, .sizes = {B, H, T}, .strides = {H * T, T, 1}};
  }
  [[nodiscard]] double operator()(int64_t b, int64_t h, int64_t t) const {
    return values[1 + (b * H + h) * T + t];
  }
  void require_written() const {
    for (size_t i = 0; i < values.size(); ++i) {
      const bool is_inside = i > 0 && i + 1 < values.size();
      REQUIRE((values[i] != kPoisonFloat) == is_inside && std::isfinite(values[i]));
    }
  }

  int64_t B, H, T;
  std::vector<float> values;
};

// In the order of loops over (b, t, h, d); lse over (b, h, t). dq and dk of the raw rows.
struct Oracle {
  std::vector<double> out, lse, dq, dk, dv;
  double largest_score = 0;
};

struct Problem {
  Problem(const Case& config, unsigned seed)
      : c(config),
        rng(seed),
        rows(c.B, c.T, c.H, c.Hkv, c.D, rng),
        raw_q(c, c.H),
        raw_k(c, c.Hkv),
        q(c, c.H),
        k(c, c.Hkv),
        v(c, c.Hkv),
        dout(c, c.H),
        scale(1.3 / std::sqrt(static_cast<double>(c.D))) {
    raw_q.fill(rng, 1.5);
    raw_k.fill(rng, 2.0);
    q.fill_normed(raw_q, rows, rows.q_inv_rms);
    k.fill_normed(raw_k, rows, rows.k_inv_rms);
    v.fill(rng, 1);
    dout.fill(rng, 1);
  }

  // Gradients of normed rows become those of raw ones.
  void go_back(std::vector<double>& dy, Rows& raw) {
    size_t n = 0;
    raw.for_each([&](int64_t b, int64_t t, int64_t h, int64_t d) {
      if (d > 0) return;
      const auto first = dy.begin() + static_cast<int64_t>(n);
      const attention::Row dx = rows.gradient(raw.row(b, t, h), {first, first + c.D}, b, t);
      std::ranges::copy(dx, first);
      n += static_cast<size_t>(c.D);
    });
  }

  [[nodiscard]] Oracle oracle() {
    const int64_t B = c.B, T = c.T, H = c.H, Hkv = c.Hkv, D = c.D;
    Oracle o{.out = std::vector<double>(B * T * H * D),
             .lse = std::vector<double>(B * H * T),
             .dq = std::vector<double>(B * T * H * D),
             .dk = std::vector<double>(B * T * Hkv * D),
             .dv = std::vector<double>(B * T * Hkv * D)};
    std::vector<double> p(T);
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t h = 0; h < H; ++h) {
        const int64_t g = h / (H / Hkv);
        for (int64_t i = 0; i < T; ++i) {
          const int64_t first = std::max<int64_t>(0, i - c.window), row = (b * T + i) * H + h;
          double sum = 0, largest = -INFINITY, delta = 0;
          for (int64_t j = first; j <= i; ++j) {
            p[j] = scale * dot(q, i, h, k, j, g, b);
            largest = std::max(largest, p[j]);
            o.largest_score = std::max(o.largest_score, std::abs(p[j]));
          }
          for (int64_t j = first; j <= i; ++j) sum += p[j] = std::exp(p[j] - largest);
          o.lse[(b * H + h) * T + i] = std::log(sum) + largest;
          for (int64_t j = first; j <= i; ++j) {
            p[j] /= sum;
            for (int64_t d = 0; d < D; ++d) o.out[row * D + d] += p[j] * v(b, j, g, d);
          }
          for (int64_t d = 0; d < D; ++d) delta += dout(b, i, h, d) * o.out[row * D + d];
          for (int64_t j = first; j <= i; ++j) {
            const double ds = scale * p[j] * (dot(dout, i, h, v, j, g, b) - delta);
            const int64_t key = ((b * T + j) * Hkv + g) * D;
            for (int64_t d = 0; d < D; ++d) {
              o.dq[row * D + d] += ds * k(b, j, g, d);
              o.dk[key + d] += ds * q(b, i, h, d);
              o.dv[key + d] += p[j] * dout(b, i, h, d);
            }
          }
        }
      }
    }
    go_back(o.dq, raw_q);
    go_back(o.dk, raw_k);
    return o;
  }

  [[nodiscard]] double dot(const Rows& x, int64_t i, int64_t h, const Rows& y, int64_t j, int64_t g,
                           int64_t b) const {
    double sum = 0;
    for (int64_t d = 0; d < c.D; ++d) sum += x(b, i, h, d) * y(b, j, g, d);
    return sum;
  }

  Case c;
  std::mt19937 rng;
  attention::RawRows rows;
  Rows raw_q, raw_k;  // what q and k are made of
  Rows q, k, v, dout;
  double scale;
};

// In the Frobenius norm, relative to `want`. One key has softmax 1 and no gradient but rounding,
// which is then held against the gradients of others, that are about 1.
double relative_error(Rows& got, const std::vector<double>& want) {
  double error = 0, norm = 0;
  size_t n = 0;
  got.for_each([&](auto... i) {
    error += std::pow(got(i...) - want[n], 2);
    norm += std::pow(want[n++], 2);
  });
  return std::sqrt(error / (norm > 1e-20 ? norm : static_cast<double>(n)));
}

struct Results {
  explicit Results(const Case& c)
      : out(c, c.H), dq(c, c.H), dk(c, c.Hkv), dv(c, c.Hkv), lse(c), delta(c) {}
  Rows out, dq, dk, dv;
  Statistics lse, delta;
};

Results run(Problem& p, double score_bound) {
  Results r(p.c);
  const Placement where{.is_cuda = true};
  attention::portable_forward({.q = p.q.view(),
                               .k = p.k.view(),
                               .v = p.v.view(),
                               .out = r.out.view(),
                               .lse = r.lse.view(),
                               .window = p.c.window,
                               .scale = p.scale,
                               .score_bound = score_bound},
                              where);
  attention::portable_backward({.dout = p.dout.view(),
                                .q = p.q.view(),
                                .k = p.k.view(),
                                .v = p.v.view(),
                                .out = r.out.view(),
                                .lse = r.lse.view(),
                                .rope_norm = p.rows.rope_norm(),
                                .delta = r.delta.view(),
                                .dq = r.dq.view(),
                                .dk = r.dk.view(),
                                .dv = r.dv.view(),
                                .window = p.c.window,
                                .scale = p.scale},
                               where);
  return r;
}

double worst_forward = 0, worst_backward = 0, worst_lse = 0;

void test_case(const Case& c, unsigned seed) {
  Problem p(c, seed);
  const Oracle want = p.oracle();
  Results got = run(p, c.is_bounded ? want.largest_score : 0);
  for (Rows* rows : {&got.out, &got.dq, &got.dk, &got.dv}) rows->require_written();
  got.lse.require_written();
  got.delta.require_written();
  const double forward = relative_error(got.out, want.out);
  const double backward =
      std::max({relative_error(got.dq, want.dq), relative_error(got.dk, want.dk),
                relative_error(got.dv, want.dv)});
  double lse = 0;
  for (size_t i = 0; i < want.lse.size(); ++i) {
    lse = std::max(lse, std::abs(got.lse.values[i + 1] - want.lse[i]));
  }
  worst_forward = std::max(worst_forward, forward);
  worst_backward = std::max(worst_backward, backward);
  worst_lse = std::max(worst_lse, lse);
  REQUIRE(forward <= 4e-3);
  REQUIRE(lse <= 2e-3);
  REQUIRE(backward <= (c.window == 1 ? 1e-2 : 6e-3));  // of two keys the gradients nearly cancel
}

// Every T, window and head_dim; heads, batch, softmax and strides take turns.
void test_shapes() {
  constexpr int64_t kHeads[][2] = {{1, 1}, {2, 1}, {4, 1}, {2, 2}, {4, 2}};
  unsigned n = 0;
  for (const int64_t T : {1, 17, 64, 100, 128, 200}) {
    for (const int64_t window : {int64_t{0}, int64_t{1}, int64_t{37}, int64_t{64}, int64_t{127},
                                 int64_t{128}, int64_t{1} << 40}) {
      for (const int64_t D : {64, 128}) {
        const auto [H, Hkv] = T > 64 ? kHeads[n % 3 % 2] : kHeads[n % 5];
        test_case({.B = T <= 64 ? 1 + n / 2 % 2 : 1,
                   .T = T,
                   .H = H,
                   .Hkv = Hkv,
                   .D = D,
                   .window = window,
                   .is_bounded = n / 3 % 2 == 0,
                   .padding = n / 2 % 3 == 0 ? 0 : 8},
                  n);
        ++n;
      }
    }
  }
}

// The same bits again, and whichever warp is behind the others wherever it may be.
void test_order_of_warps_does_not_matter() {
  for (const int64_t D : {64, 128}) {
    Problem p({.B = 1, .T = 170, .H = 2, .Hkv = 1, .D = D, .window = 90, .padding = 8}, 7);
    const Results first = run(p, 0);
    for (int warp = 0; warp <= 4; ++warp) {  // there is no warp 4: nobody is late
      cuda_on_host::Block::late_warp = warp;
      const Results again = run(p, 0);
      REQUIRE(first.out.bits == again.out.bits && first.lse.values == again.lse.values);
      REQUIRE(first.dq.bits == again.dq.bits && first.dk.bits == again.dk.bits);
      REQUIRE(first.dv.bits == again.dv.bits);
    }
    cuda_on_host::Block::late_warp = -1;
  }
}

bool is_refused(const Case& c, int64_t offset) {
  Problem p(c, 1);
  Results r(c);
  attention::Forward forward{
      .q = p.q.view(), .k = p.k.view(), .v = p.v.view(), .out = r.out.view(), .lse = r.lse.view()};
  forward.k.data = p.k.bits.data() + offset;
  try {
    attention::portable_forward(forward, {.is_cuda = true});
  } catch (const Unsupported& error) {
    return std::string(error.what()).find("multiples of 16 bytes") != std::string::npos;
  }
  return false;
}

void test_unaligned_rows_are_refused() {
  const Case aligned{.B = 1, .T = 1, .H = 1, .Hkv = 1, .D = 64, .padding = 8};
  REQUIRE(!is_refused(aligned, 0));
  REQUIRE(!is_refused(aligned, 8));
  REQUIRE(is_refused(aligned, 4));
  REQUIRE(is_refused({.B = 1, .T = 2, .H = 2, .Hkv = 1, .D = 64, .padding = 4}, 0));
}

void test_sizes_beyond_a_grid_are_refused() {
  for (const std::array<int64_t, 4>& sizes : {std::array<int64_t, 4>{65536, 1, 1, 64},
                                              {1, (int64_t{1} << 30) + 1, 1, 64},
                                              {1, 1, 65536, 64}}) {
    attention::Forward forward;
    forward.q.rank = 4;
    forward.q.sizes = sizes;
    bool is_refused = false;
    try {
      attention::portable_forward(forward, {.is_cuda = true});
    } catch (const Unsupported&) {
      is_refused = true;
    }
    REQUIRE(is_refused);
  }
}

void test_empty_is_nothing_to_do() {
  for (const Case& c : {Case{.B = 0, .T = 3, .H = 1, .Hkv = 1, .D = 64},
                        Case{.B = 1, .T = 0, .H = 1, .Hkv = 1, .D = 64}}) {
    attention::Forward forward;
    forward.q.sizes = {c.B, c.T, c.H, c.D};
    attention::portable_forward(forward, {.is_cuda = true});
    attention::Backward backward;
    backward.q.sizes = forward.q.sizes;
    attention::portable_backward(backward, {.is_cuda = true});
  }
}

}  // namespace

int main() {
  test_empty_is_nothing_to_do();
  test_unaligned_rows_are_refused();
  test_sizes_beyond_a_grid_are_refused();
  test_order_of_warps_does_not_matter();
  test_shapes();
  std::printf("worst relative error: forward %.1e, backward %.1e; lse %.1e\n", worst_forward,
              worst_backward, worst_lse);
}
