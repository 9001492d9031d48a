// The step on the CPU where Python does not look: beside its memory, and between its threads. Worth
// its time under sanitizers; what the step computes is tested in tests/python/ops/test_muon.py.
#include <cstring>

#include "muon/stack.h"
#include "require.h"

namespace {

using namespace nanochat;

void require_same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// More matrices than threads with a rest, fewer, and sides that end within a vector.
void test_threads(CpuLevel level, DType inner, int64_t K, int64_t m, int64_t n) {
  Stack alone(K, m, n, 1e-2f);
  alone.step({.num_threads = 1, .cpu_level = level}, 0.9, inner);
  for (const float p : alone.params[0]) REQUIRE(std::isfinite(p));
  for (const int num_threads : {2, 3, 7}) {
    Stack together(K, m, n, 1e-2f);
    together.step({.num_threads = num_threads, .cpu_level = level}, 0.9, inner);
    require_same_bits(together.momentum, alone.momentum);
    require_same_bits(together.second, alone.second);
    for (size_t k = 0; k < alone.params.size(); ++k) {
      require_same_bits(together.params[k], alone.params[k]);
    }
  }
}

}  // namespace

int main() {
  for (int level = 0; level <= static_cast<int>(best_cpu_level()); ++level) {
    for (const DType inner : {DType::kFloat32, DType::kBFloat16}) {
      test_threads(static_cast<CpuLevel>(level), inner, 5, 67, 201);
      test_threads(static_cast<CpuLevel>(level), inner, 2, 203, 66);
      test_threads(static_cast<CpuLevel>(level), inner, 3, 3, 12);
    }
  }
}
