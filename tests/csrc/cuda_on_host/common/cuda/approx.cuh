// csrc/common/cuda/approx.cuh in plain C++.
#pragma once

#include <cmath>
#include <limits>

namespace nanochat::cuda {

inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < std::numeric_limits<float>::min() ? 0.0f : y;
}

}  // namespace nanochat::cuda
