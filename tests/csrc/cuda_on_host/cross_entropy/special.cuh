// csrc/cross_entropy/special.cuh in plain C++, without its rounding but with its zeros.
#pragma once

#include <cmath>
#include <limits>

namespace nanochat::cross_entropy {

inline float flush_to_zero(float x) {
  return std::abs(x) < std::numeric_limits<float>::min() ? 0.0f : x;
}
inline float exp2_approx(float x) {
  return flush_to_zero(std::exp2(x));
}
inline float reciprocal_approx(float x) {
  return flush_to_zero(1.0f / x);
}

}  // namespace nanochat::cross_entropy
