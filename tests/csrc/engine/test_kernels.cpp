// The loops of the CPU model at every level that this machine runs, against plain loops in double,
// and against themselves: a row is the same bits whatever is computed beside it.
#include "engine/cpu/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "common/check.h"
#include "engine/model.h"
#include "require.h"

namespace {

using namespace nanochat;
using namespace nanochat::engine;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kFloatStep = 0x1p-23, kBFloat16Step = 0x1p-8;  // between neighbours, relative

// Loops of one level and precision, and how their arguments are stored.
struct Level {
  Precision precision;
  const Kernels& loops;

  [[nodiscard]] bool is_half() const { return precision == Precision::kBFloat16; }
  [[nodiscard]] double rounding() const { return is_half() ? kBFloat16Step : kFloatStep; }

  [[nodiscard]] std::vector<char> inputs(const std::vector<float>& x) const {
    std::vector<char> out(x.size() * loops.input_bytes);
    loops.to_inputs(x.data(), std::ssize(x), out.data());
    return out;
  }
  [[nodiscard]] float input(const std::vector<char>& inputs, size_t i) const {
    if (loops.input_bytes == sizeof(BFloat16)) return to_float(at<BFloat16>(inputs, i));
    return at<float>(inputs, i);
  }

 private:
  template <typename T>
  static T at(const std::vector<char>& bytes, size_t i) {
    T value;
    std::memcpy(&value, &bytes[i * sizeof(T)], sizeof(T));
    return value;
  }
};

// Numbers that bf16 holds, so that both precisions start from the same.
std::vector<float> random_numbers(int64_t n, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = to_float(to_bfloat16(normal(rng)));
  return x;
}

// All bits set: NaN as fp32 and as bf16.
std::vector<char> nans(int64_t num_bytes) {
  return std::vector<char>(num_bytes, '\xff');
}

bool is_near(double got, double want, double tolerance) {
  return std::abs(got - want) <= tolerance;  // not if it is NaN
}

void test_inputs_are_rounded_to_nearest(const Level& level) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  for (const int n : {1, 3, 16, 37}) {
    std::vector<float> x(n);
    for (float& value : x) value = normal(rng);
    const std::vector<char> inputs = level.inputs(x);
    for (int i = 0; i < n; ++i) {
      const float want = level.is_half() ? to_float(to_bfloat16(x[i])) : x[i];
      REQUIRE(level.input(inputs, i) == want);
    }
  }
}

// W (N, K), one part of it stored as fp32, the other as bf16.
class RandomMatrix {
 public:
  RandomMatrix(int64_t N, int64_t K, Precision precision, std::mt19937& rng)
      : depth_(K), weights_(random_numbers(N * K, rng)) {
    const int64_t num_rows = N / 3;
    std::vector<BFloat16> rest;
    for (int64_t i = num_rows * K; i < N * K; ++i) rest.push_back(to_bfloat16(weights_[i]));
    const TensorView parts[] = {
        {.data = weights_.data(), .rank = 2, .sizes = {num_rows, K}, .strides = {K, 1}},
        {.data = rest.data(),
         .dtype = DType::kBFloat16,
         .rank = 2,
         .sizes = {N - num_rows, K},
         .strides = {K, 1}}};
    packed_ = PackedMatrix(parts, precision);
  }

  [[nodiscard]] const PackedMatrix& packed() const { return packed_; }

  struct Sum {
    double value = 0, magnitude = 0;
  };
  [[nodiscard]] Sum times(const float* a, int64_t n) const {
    Sum sum;
    for (int64_t k = 0; k < depth_; ++k) {
      const double term = static_cast<double>(a[k]) * weights_[n * depth_ + k];
      sum.value += term;
      sum.magnitude += std::abs(term);
    }
    return sum;
  }

 private:
  int64_t depth_;
  std::vector<float> weights_;
  PackedMatrix packed_;
};

constexpr int64_t kMargin = 5;  // columns behind those of a product, that it must leave alone

// What `epilogue` makes of the rows of `a`, beginning with `before`; blocks in pieces of `at_once`.
std::vector<char> product(const Level& level, const PackedMatrix& weight,
                          const std::vector<float>& a, int64_t num_rows, Epilogue epilogue,
                          const std::vector<float>& before, int64_t at_once) {
  const int64_t stride = weight.num_blocks() * kBlockColumns + kMargin;
  const bool is_input = epilogue == Epilogue::kReluSquare;
  const int64_t bytes = is_input ? level.loops.input_bytes : int64_t{sizeof(float)};
  std::vector<char> out = nans(num_rows * stride * bytes);
  if (epilogue == Epilogue::kAdd) std::memcpy(out.data(), before.data(), out.size());
  const std::vector<char> inputs = level.inputs(a);
  const Product task{.weight = &weight,
                     .a = inputs.data(),
                     .num_rows = num_rows,
                     .epilogue = epilogue,
                     .out = out.data(),
                     .out_stride = stride};
  for (int64_t first = 0; first < weight.num_blocks(); first += at_once) {
    level.loops.multiply(task, first, std::min(first + at_once, weight.num_blocks()));
  }
  return out;
}

void test_product(const Level& level, int64_t N, int64_t K, Epilogue epilogue) {
  constexpr int64_t kMaxRows = 65;
  std::mt19937 rng(2);
  const RandomMatrix matrix(N, K, level.precision, rng);
  const PackedMatrix& weight = matrix.packed();
  REQUIRE(weight.num_columns() == N && weight.depth() == K);
  const int64_t stride = weight.num_blocks() * kBlockColumns + kMargin;
  const std::vector<float> a = random_numbers(kMaxRows * K, rng);
  const std::vector<float> before = random_numbers(kMaxRows * stride, rng);
  const auto rows_of = [](const std::vector<float>& x, int64_t first, int64_t count, int64_t size) {
    return std::vector<float>(x.begin() + first * size, x.begin() + (first + count) * size);
  };

  std::vector<char> alone;  // row after row, each in a product of its own
  for (int64_t row = 0; row < kMaxRows; ++row) {
    const std::vector<char> out = product(level, weight, rows_of(a, row, 1, K), 1, epilogue,
                                          rows_of(before, row, 1, stride), weight.num_blocks());
    const bool is_input = epilogue == Epilogue::kReluSquare;
    for (int64_t n = 0; n < N; ++n) {
      const auto [sum, magnitude] = matrix.times(&a[row * K], n);
      const double error = static_cast<double>(K) * kFloatStep * magnitude;
      if (is_input) {
        const double want = sum > 0 ? sum * sum : 0;
        const double tolerance = 2 * std::abs(sum) * error + error * error;
        REQUIRE(is_near(level.input(out, n), want, tolerance + level.rounding() * want));
        continue;
      }
      float got;
      std::memcpy(&got, &out[n * sizeof(float)], sizeof(float));
      const double added = epilogue == Epilogue::kAdd ? before[row * stride + n] : 0.0;
      const double want = added + sum;
      REQUIRE(is_near(got, want, error + kFloatStep * (std::abs(added) + std::abs(sum))));
    }
    const int64_t element = std::ssize(out) / stride;
    const std::vector<char> untouched =
        epilogue == Epilogue::kAdd ? std::vector<char>() : nans(kMargin * element);
    const char* const margin = &out[(stride - kMargin) * element];
    const void* const want = epilogue == Epilogue::kAdd
                                 ? static_cast<const void*>(&before[(row + 1) * stride - kMargin])
                                 : untouched.data();
    REQUIRE(std::memcmp(margin, want, kMargin * element) == 0);
    alone.insert(alone.end(), out.begin(), out.end());
  }

  const int64_t row_bytes = std::ssize(alone) / kMaxRows;
  for (const int64_t num_rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64, 65}) {
    const int64_t first = kMaxRows - num_rows;
    for (const int64_t at_once : {int64_t{1}, int64_t{2}, int64_t{5}, weight.num_blocks()}) {
      const std::vector<char> out =
          product(level, weight, rows_of(a, first, num_rows, K), num_rows, epilogue,
                  rows_of(before, first, num_rows, stride), at_once);
      REQUIRE(std::memcmp(out.data(), &alone[first * row_bytes], out.size()) == 0);
    }
  }
}

void test_products(const Level& level) {
  for (const int64_t N : {16, 48, 96, 100, 200}) {
    for (const int64_t K : {4, 64, 132}) {
      for (const Epilogue epilogue : {Epilogue::kStore, Epilogue::kAdd, Epilogue::kReluSquare}) {
        test_product(level, N, K, epilogue);
      }
    }
  }
}

void test_norm(const Level& level) {
  std::mt19937 rng(3);
  for (const int n : {1, 2, 15, 16, 64, 100, 1000}) {
    const std::vector<float> x = random_numbers(n, rng);
    for (const float eps : {0.0f, 0.5f}) {
      double squares = 0;
      for (const double value : x) squares += value * value;
      const double want = 1 / std::sqrt(squares / n + static_cast<double>(eps));
      std::vector<char> out = nans(n * level.loops.input_bytes);
      const float got = level.loops.norm(x.data(), n, eps, out.data());
      REQUIRE(is_near(got, want, 8 * kFloatStep * want));
      for (int i = 0; i < n; ++i) {
        const double y = x[i] * want;
        const double tolerance = (8 * kFloatStep + level.rounding()) * std::abs(y);
        REQUIRE(is_near(level.input(out, i), y, tolerance));
      }
    }
  }
}

void test_rope_norm(const Level& level) {
  constexpr double kEps = 0.25, kScale = 1.25;
  std::mt19937 rng(4);
  for (const int D : {2, 16, 64, 96, 128}) {
    std::vector<float> x = random_numbers(D, rng), cos, sin;
    std::vector<double> want(D);
    double squares = 0;
    for (int j = 0; j < D / 2; ++j) {
      cos.push_back(std::cos(static_cast<float>(j)));
      sin.push_back(std::sin(static_cast<float>(j)));
      const double first = x[j], second = x[D / 2 + j], c = cos[j], s = sin[j];
      want[j] = first * c + second * s;
      want[D / 2 + j] = second * c - first * s;
      squares += want[j] * want[j] + want[D / 2 + j] * want[D / 2 + j];
    }
    level.loops.rope_norm(x.data(), D, cos.data(), sin.data(), kEps, kScale);
    for (int d = 0; d < D; ++d) {
      const double y = want[d] * kScale / std::sqrt(squares / D + kEps);
      REQUIRE(is_near(x[d], y, 16 * kFloatStep * kScale));
    }
  }
}

// Keys and values of one head of one sequence, and its queries. Pages have room for other heads on
// both sides.
class Attention {
 public:
  static constexpr int kNumTokens = 138, kQueryStride = 2;  // heads

  Attention(const Level& level, int head_dim, int window)
      : level_(level), D_(head_dim), window_(window) {
    std::mt19937 rng(5);
    queries_ = random_numbers(int64_t{kNumTokens} * D_, rng);
    keys_ = random_numbers(int64_t{kNumTokens} * D_, rng);
    values_ = random_numbers(int64_t{kNumTokens} * D_, rng);
  }

  // The first key that a query at `position` sees.
  [[nodiscard]] int begin(int position) const {
    return window_ < 0 ? 0 : std::max(0, position - window_);
  }

  // Outputs of queries from `first` on. Only what one of them sees is there: other keys and values
  // are NaN, other pages do not exist.
  [[nodiscard]] std::vector<char> outputs(int first, int num_queries) const {
    const int64_t head_bytes = int64_t{kPageTokens} * D_ * level_.loops.cache_bytes;
    const int low = begin(first), end = first + num_queries;
    const int first_page = low / kPageTokens, last_page = (end - 1) / kPageTokens;
    std::vector<std::vector<char>> memory(last_page + 1);
    std::vector<const char*> pages(last_page + 1);
    for (int page = first_page; page <= last_page; ++page) {
      memory[page] = nans(6 * head_bytes);
      pages[page] = memory[page].data();
    }
    for (int t = low; t < end; ++t) {
      char* const page = memory[t / kPageTokens].data();
      const int slot = t % kPageTokens;
      level_.loops.store_key(&keys_[t * D_], D_, slot, page + head_bytes);
      level_.loops.store_value(&values_[t * D_], D_, slot, page + 4 * head_bytes);
    }
    const int64_t stride = int64_t{kQueryStride} * D_;
    const int64_t row_bytes = D_ * level_.loops.input_bytes;
    std::vector<char> queries = nans(num_queries * stride * level_.loops.input_bytes);
    std::vector<char> out = queries;
    const std::vector<char> inputs = level_.inputs(queries_);
    for (int r = 0; r < num_queries; ++r) {
      std::memcpy(&queries[r * kQueryStride * row_bytes], &inputs[(first + r) * row_bytes],
                  row_bytes);
    }
    std::vector<float> scratch(num_queries * (last_page + 1 - first_page) * kPageTokens, kNan);
    level_.loops.attend({.queries = queries.data(),
                         .query_stride = stride,
                         .num_queries = num_queries,
                         .first_position = first,
                         .window = window_,
                         .head_dim = static_cast<int>(D_),
                         .scale = static_cast<float>(scale()),
                         .pages = pages.data(),
                         .keys_offset = head_bytes,
                         .values_offset = 4 * head_bytes,
                         .out = out.data(),
                         .out_stride = stride,
                         .scratch = scratch.data()});
    std::vector<char> rows;
    const std::vector<char> other_head = nans(row_bytes);
    for (int r = 0; r < num_queries; ++r) {
      const char* const row = &out[r * kQueryStride * row_bytes];
      rows.insert(rows.end(), row, row + row_bytes);
      REQUIRE(std::memcmp(row + row_bytes, other_head.data(), row_bytes) == 0);
    }
    return rows;
  }

  void check_values(int position, const std::vector<char>& output) const {
    std::vector<double> sums(D_);
    double total = 0;
    for (int key = begin(position); key <= position; ++key) {
      double score = 0;
      for (int64_t d = 0; d < D_; ++d) {
        score += static_cast<double>(queries_[position * D_ + d]) * keys_[key * D_ + d];
      }
      const double weight = std::exp(scale() * score);
      total += weight;
      for (int64_t d = 0; d < D_; ++d) sums[d] += weight * values_[key * D_ + d];
    }
    for (int64_t d = 0; d < D_; ++d) {
      const double want = sums[d] / total;
      REQUIRE(is_near(level_.input(output, d), want, 4e-6 + level_.rounding() * std::abs(want)));
    }
  }

 private:
  [[nodiscard]] double scale() const { return 1 / std::sqrt(static_cast<double>(D_)); }

  const Level& level_;
  int64_t D_;
  int window_;
  std::vector<float> queries_, keys_, values_;  // (kNumTokens, D)
};

void test_attention(const Level& level) {
  for (const int head_dim : {2, 16, 64, 96, 128}) {
    for (const int window : {-1, 0, 1, 5, 64}) {
      const Attention attention(level, head_dim, window);
      for (const int first : {0, 1, 15, 16, 63, 64, 65, 130}) {
        std::vector<char> alone;
        for (int r = 0; r < kMaxQueries; ++r) {
          const std::vector<char> output = attention.outputs(first + r, 1);
          attention.check_values(first + r, output);
          alone.insert(alone.end(), output.begin(), output.end());
        }
        for (int num_queries = 2; num_queries <= kMaxQueries; ++num_queries) {
          const std::vector<char> together = attention.outputs(first, num_queries);
          REQUIRE(std::equal(together.begin(), together.end(), alone.begin()));
        }
      }
    }
  }
}

void test_levels_beyond_the_machine_are_refused() {
  for (int isa = static_cast<int>(best_isa()) + 1; isa <= static_cast<int>(Isa::kAvx512Bf16);
       ++isa) {
    bool is_refused = false;
    try {
      static_cast<void>(kernels(static_cast<Isa>(isa), Precision::kFloat32));
    } catch (const Unsupported&) {
      is_refused = true;
    }
    REQUIRE(is_refused);
  }
}

}  // namespace

int main() {
  for (int isa = 0; isa <= static_cast<int>(best_isa()); ++isa) {
    for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
      const Level level{.precision = precision, .loops = kernels(static_cast<Isa>(isa), precision)};
      test_inputs_are_rounded_to_nearest(level);
      test_products(level);
      test_norm(level);
      test_rope_norm(level);
      test_attention(level);
    }
  }
  test_levels_beyond_the_machine_are_refused();
}
