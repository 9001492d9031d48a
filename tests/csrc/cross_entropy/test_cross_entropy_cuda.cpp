// The row kernel, run on the host thread by thread, against fp64: ends of vectors, of sweeps and of
// what a block keeps on the chip; rows that are ignored or wrong; offsets beyond 32 bits.
#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cross_entropy/cross_entropy.h"
#include "require.h"

namespace {

using namespace nanochat;

constexpr int64_t kIgnore = -1;
constexpr int kAlign = 64;  // elements

TensorView view(void* data, DType dtype, int64_t rows, int64_t columns, int64_t stride) {
  return {
      .data = data, .dtype = dtype, .rank = 2, .sizes = {rows, columns}, .strides = {stride, 1}};
}

template <typename T>
constexpr DType kDType = std::is_same_v<T, float> ? DType::kFloat32 : DType::kBFloat16;

template <typename T>
TensorView view(std::vector<T>& x) {
  constexpr DType dtype = std::is_same_v<T, float> ? DType::kFloat32 : DType::kInt64;
  return {.data = x.data(),
          .dtype = dtype,
          .rank = 1,
          .sizes = {static_cast<int64_t>(x.size())},
          .strides = {1}};
}

// Loss of a row and its gradient in fp64.
double exact(const std::vector<double>& logits, int64_t target, double cap,
             std::vector<double>& gradient) {
  double largest = -INFINITY, sum = 0.0;
  std::vector<double> z = logits;
  for (double& x : z) {
    if (cap > 0) x = cap * std::tanh(x / cap);
    largest = std::max(largest, x);
  }
  for (const double x : z) sum += std::exp(x - largest);
  gradient.resize(z.size());
  for (size_t j = 0; j < z.size(); ++j) {
    const double p = std::exp(z[j] - largest) / sum;
    // 1 - tanh^2 = 1 / cosh^2, exact far out, too.
    const double slope = cap > 0 ? std::pow(std::cosh(logits[j] / cap), -2) : 1.0;
    gradient[j] = (p - (static_cast<int64_t>(j) == target)) * slope;
  }
  return std::log(sum) + largest - z[static_cast<size_t>(target)];
}

template <typename T>
void test_rows(int64_t V, int64_t pad, double cap, bool with_gradient) {
  constexpr int kRows = 4;  // the third is ignored, the last has no such target
  const int64_t columns = V + pad, stride = (columns + kAlign) / kAlign * kAlign;
  std::vector<T> logits(static_cast<size_t>(kRows * stride));
  std::vector<int64_t> targets = {V - 1, V / 2, kIgnore, V};
  std::vector<float> loss(kRows, 123.0f);
  std::mt19937 rng(static_cast<uint32_t>(V));
  std::normal_distribution<float> normal(0, 6);
  for (T& x : logits) store(x, NAN);  // padding and gaps: not to be read
  for (int i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < V; ++j) {
      // With a cap any number is a logit.
      const bool is_huge = cap > 0 && j % 100 < 2 && V > 8;
      store(logits[i * stride + j], is_huge ? (j % 2 ? 3e4f : -3e4f) : normal(rng));
    }
  }
  const std::vector<T> before = logits;
  cross_entropy::forward({.logits = view(logits.data(), kDType<T>, kRows, columns, stride),
                          .targets = view(targets),
                          .loss = view(loss),
                          .vocab_size = V,
                          .ignore_index = kIgnore,
                          .softcap = cap,
                          .with_gradient = with_gradient},
                         {.is_cuda = true});

  constexpr double kRounding = std::is_same_v<T, float> ? 1e-7 : 1.0 / 256;  // of a result
  for (int i = 0; i < kRows; ++i) {
    const T* row = &logits[static_cast<size_t>(i * stride)];
    const T* old = &before[static_cast<size_t>(i * stride)];
    for (int64_t j = with_gradient ? columns : 0; j < stride; ++j) {
      REQUIRE(std::memcmp(&row[j], &old[j], sizeof(T)) == 0);  // nobody's columns
    }
    if (i == 2) REQUIRE(loss[i] == 0.0f);
    if (i == 3) REQUIRE(std::isnan(loss[i]));
    for (int64_t j = i == 2 ? 0 : V; with_gradient && j < columns; ++j) {
      REQUIRE(load(row[j]) == 0.0f);
    }
    if (i >= 2) continue;
    std::vector<double> values(static_cast<size_t>(V)), gradient;
    for (int64_t j = 0; j < V; ++j) values[j] = load(old[j]);
    const double want = exact(values, targets[i], cap, gradient);
    REQUIRE(std::abs(loss[i] - want) < 2e-6 * std::max(cap, 20.0));
    for (int64_t j = 0; with_gradient && j < V; ++j) {
      const double error = std::abs(load(row[j]) - gradient[j]);
      REQUIRE(error <= (kRounding + 1e-5) * std::abs(gradient[j]) + 1e-7);
    }
  }
}

void test_sizes() {
  // A vector is 8 or 4 columns, a sweep 4096 or 2048; 32768 and 16384 stay on the chip.
  for (const int64_t V : {1, 7, 8, 9, 2047, 4096, 4097, 4104, 9001, 33001}) {
    for (const double cap : {0.0, 15.0, 60.0}) {
      if (V > 9000 && cap == 60.0) continue;
      for (const bool with_gradient : {true, false}) {
        test_rows<BFloat16>(V, V % 3 * 29, cap, with_gradient);
        test_rows<float>(V, V % 3 * 29, cap, with_gradient);
      }
    }
  }
}

// Two rows so far apart that an offset of 65536 rows of 32768 columns is theirs: the pages between
// them are never touched.
void test_offsets_beyond_32_bits() {
  constexpr int64_t kStride = int64_t{65536} * 32768, kColumns = 1000;
  constexpr size_t kBytes = (kStride + kColumns) * sizeof(BFloat16);
  void* const memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  auto* const logits = static_cast<BFloat16*>(memory);
  for (const bool is_cuda : {false, true}) {
    for (int64_t j = 0; j < kColumns; ++j) {
      store(logits[j], 0.0f);
      store(logits[kStride + j], j == 3 ? 5.0f : 0.0f);
    }
    std::vector<int64_t> targets = {3, 3};
    std::vector<float> loss(2);
    cross_entropy::forward({.logits = view(logits, DType::kBFloat16, 2, kColumns, kStride),
                            .targets = view(targets),
                            .loss = view(loss),
                            .vocab_size = kColumns,
                            .ignore_index = kIgnore,
                            .with_gradient = true},
                           {.is_cuda = is_cuda});
    REQUIRE(std::abs(loss[0] - std::log(1000.0f)) < 1e-5f);
    REQUIRE(std::abs(loss[1] - (std::log(999.0f + std::exp(5.0f)) - 5.0f)) < 1e-5f);
    REQUIRE(load(logits[kStride]) > 0.0f && load(logits[kStride + 3]) < -0.8f);
  }
  munmap(memory, kBytes);
}

}  // namespace

int main() {
  test_sizes();
  test_offsets_beyond_32_bits();
}
