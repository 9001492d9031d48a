// The step's kernels, run on the host thread by thread: the iteration against fp64, the whole step
// against that of the CPU. Sides one past a tile and past a piece of 16 bytes; the workspace begins
// as NaN.
#include <cstring>

#include "muon/stack.h"
#include "muon/triangle.h"
#include "muon/workspace.h"
#include "require.h"

namespace {

using namespace nanochat;

void test_triangle() {
  for (int size = 1; size <= 200; ++size) {
    int index = 0;
    for (int column = 0; column < size; ++column) {
      for (int row = 0; row <= column; ++row, ++index) {
        const muon::TilePlace place = muon::triangle_tile(index);
        REQUIRE(place.row == row && place.column == column);
      }
    }
    REQUIRE(index == muon::num_triangle_tiles(size));
  }
  // Beyond what fp32 counts exactly.
  for (const int column : {5000, 20000, 40000}) {
    const int first = muon::num_triangle_tiles(column);
    REQUIRE(muon::triangle_tile(first).column == column && muon::triangle_tile(first).row == 0);
    REQUIRE(muon::triangle_tile(first - 1).column == column - 1);
  }
}

// X of matrix k as the last polynomial left it: after an odd number of them, in the second place.
Matrix result_of(const Stack& stack, int64_t k) {
  const muon::WorkspaceLayout layout{stack.K, stack.m, stack.n};
  Matrix x(layout.short_dim(), layout.long_dim());
  const auto* halves = reinterpret_cast<const uint16_t*>(stack.workspace.data() + layout.x_size()) +
                       k * layout.short_dim() * layout.x_stride();
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t j = 0; j < x.columns; ++j) {
      _Float16 value;
      std::memcpy(&value, halves + i * layout.x_stride() + j, sizeof value);
      x.at(i, j) = static_cast<double>(value);
    }
  }
  return x;
}

static_assert(muon::kNumSteps % 2 == 1);

void test_iteration(int64_t m, int64_t n, float scale) {
  Stack stack(2, m, n, scale);
  std::fill(stack.momentum.begin(), stack.momentum.end(), 0.0f);
  stack.step({.is_cuda = true}, 0.0);
  for (int64_t k = 0; k < stack.K; ++k) {
    Matrix g(m, n);
    for (size_t i = 0; i < g.data.size(); ++i) {
      g.data[i] = static_cast<double>(stack.grads[static_cast<size_t>(k)][i]);
    }
    const Matrix exact = exact_iteration(g), ours = result_of(stack, k);
    REQUIRE(relative_error(ours, exact) <= 5e-3);
    const std::vector<double> expected = singular_values(exact), got = singular_values(ours);
    for (size_t i = 0; i < got.size(); ++i) REQUIRE(std::abs(got[i] - expected[i]) <= 0.02);
  }
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

// fp32 products on the CPU, fp16 here. Few long rows begin where the polynomials are steep, which
// makes more of a rounding.
void test_whole_step(int64_t K, int64_t m, int64_t n, double limit = 5e-3) {
  Stack ours(K, m, n, 1e-2f), reference(K, m, n, 1e-2f);
  const std::vector<std::vector<float>> before = ours.params;
  ours.step({.is_cuda = true});
  reference.step({});
  REQUIRE(distance(ours.momentum, reference.momentum) < 1e-7);
  REQUIRE(distance(ours.second, reference.second) < 1e-3);
  for (size_t k = 0; k < ours.params.size(); ++k) {
    std::vector<float> moved = ours.params[k], expected = reference.params[k];
    for (size_t i = 0; i < moved.size(); ++i) {
      moved[i] -= before[k][i];
      expected[i] -= before[k][i];
    }
    REQUIRE(distance(moved, expected) < limit);
  }
}

// The matrix of a NaN is lost, alone; a zero gradient only decays; a dead row stays.
void test_guards(int64_t m, int64_t n) {
  Stack stack(3, m, n);
  std::fill(stack.momentum.begin(), stack.momentum.end(), 0.0f);
  stack.grads[0][3] = NAN;
  std::fill(stack.grads[1].begin(), stack.grads[1].end(), 0.0f);
  std::fill_n(stack.grads[2].begin() + n, n, 0.0f);
  const std::vector<std::vector<float>> before = stack.params;
  stack.step({.is_cuda = true});
  for (const float p : stack.params[0]) REQUIRE(std::isnan(p));
  const float keep = 1.0f - 0.02f * 0.3f * muon::lr_factor(m, n);
  for (size_t i = 0; i < before[1].size(); ++i) {
    REQUIRE(std::abs(stack.params[1][i] - before[1][i] * keep) <= 1e-6f * std::abs(before[1][i]));
    REQUIRE(std::isfinite(stack.params[2][i]));
  }
  for (int64_t j = n; j < 2 * n; ++j) {
    const auto i = static_cast<size_t>(j);
    REQUIRE(std::abs(stack.params[2][i] - before[2][i] * keep) <= 1e-6f * std::abs(before[2][i]));
  }
}

}  // namespace

int main() {
  test_triangle();
  test_iteration(129, 129, 1.0f);
  test_iteration(65, 200, 1e-3f);
  test_iteration(140, 12, 1.0f);
  test_whole_step(2, 72, 130);
  test_whole_step(2, 131, 40);
  test_whole_step(2, 50, 50);
  test_whole_step(66, 4, 60, 2e-2);  // more matrices than addresses in a launch
  test_guards(9, 20);
  test_guards(20, 9);
}
