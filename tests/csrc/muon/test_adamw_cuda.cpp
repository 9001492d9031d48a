// The kernel of AdamW, run on the host, against the CPU: more tensors than a launch takes, sizes
// around a chunk, empty ones, every pair of dtypes.
#include "muon/adamw.h"
#include "muon/matrices.h"
#include "require.h"

namespace {

using namespace nanochat;

template <typename T>
constexpr DType kDType = std::is_same_v<T, float> ? DType::kFloat32 : DType::kBFloat16;

template <typename T>
std::vector<T> convert(const std::vector<float>& x) {
  std::vector<T> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) store(y[i], x[i]);
  return y;
}

template <typename T>
struct Lists {
  std::vector<std::vector<T>> memory;
  std::vector<TensorView> views;

  void add(const std::vector<float>& x) { memory.push_back(convert<T>(x)); }
  std::span<const TensorView> all() {
    views.clear();
    for (auto& x : memory) {
      views.push_back(view(x.data(), kDType<T>, {static_cast<int64_t>(x.size())}));
    }
    return views;
  }
};

template <typename P, typename G>
void test_lists() {
  struct Run {
    Lists<P> params;
    Lists<G> grads;
    Lists<float> first, second;
  } runs[2];
  std::vector<size_t> sizes{0, 1, 2047, 2048, 2049, 5000};
  while (sizes.size() < 35) sizes.push_back(3 + sizes.size());
  for (Run& run : runs) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      const auto seed = static_cast<unsigned>(4 * i);
      run.params.add(gaussian(sizes[i], seed));
      run.grads.add(gaussian(sizes[i], seed + 1));
      run.first.add(gaussian(sizes[i], seed + 2));
      run.second.add(gaussian(sizes[i], seed + 3));
      for (float& x : run.second.memory.back()) x *= x;
    }
    adamw::step({.params = run.params.all(),
                 .grads = run.grads.all(),
                 .exp_avg = run.first.all(),
                 .exp_avg_sq = run.second.all(),
                 .step = 3,
                 .lr = 0.01,
                 .beta1 = 0.8,
                 .beta2 = 0.95,
                 .eps = 1e-10,
                 .weight_decay = 0.1},
                {.is_cuda = &run == &runs[0]});
  }
  const double rounding = std::is_same_v<P, float> ? 1e-6 : 8e-3;  // of the parameter's dtype
  for (size_t i = 0; i < sizes.size(); ++i) {
    for (size_t j = 0; j < sizes[i]; ++j) {
      const auto close = [&](auto a, auto b, double tolerance) {
        const auto x = static_cast<double>(load(a)), y = static_cast<double>(load(b));
        return std::abs(x - y) <= tolerance * (std::abs(y) + 1e-2);
      };
      REQUIRE(close(runs[0].params.memory[i][j], runs[1].params.memory[i][j], rounding));
      REQUIRE(close(runs[0].first.memory[i][j], runs[1].first.memory[i][j], 1e-6));
      REQUIRE(close(runs[0].second.memory[i][j], runs[1].second.memory[i][j], 1e-6));
    }
  }
}

}  // namespace

int main() {
  test_lists<float, float>();
  test_lists<float, BFloat16>();
  test_lists<BFloat16, float>();
  test_lists<BFloat16, BFloat16>();
}
