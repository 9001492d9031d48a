// exp for rows of fp32, one element or one vector of simd.h at a time, branch-free. Relative error
// at most 2.5e-7 against libm over the whole range (tests/python/ops/test_cross_entropy.py).
#pragma once

#include "common/simd.h"

namespace nanochat::simd {

struct Math {
  template <typename F>
  NANOCHAT_HD static F reciprocal(F x) {
    return 1.0f / x;
  }

  // exp(x) = 2^n exp(r) with n = round(x / ln 2), |r| <= ln 2 / 2. Saturates at exp(-87) = 1.6e-38
  // and exp(88) = 1.7e38, so neither end leaves the normal numbers; NaN passes through.
  template <typename F>
  NANOCHAT_HD static F exp(F x) {
    const F low = F{} - 87.0f, high = F{} + 88.0f;
    x = x < low ? low : x;
    x = x > high ? high : x;
    constexpr float kLog2E = 1.44269504f;
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves n in the low bits
    const F shifted = x * kLog2E + kRound;
    const F n = shifted - kRound;
    // ln 2 in two parts: the first has 15 bits, so n times it is exact.
    const F r = (x - n * 0.693145751953125f) - n * 1.42860677e-6f;
    // 1 + r + r^2 P(r), P fitted for least relative error (1.1e-7) on |r| <= ln 2 / 2.
    const F p = ((r * 0.008312478f + 0.04189055f) * r + 0.16667116f) * r + 0.49999228f;
    const F scale = std::bit_cast<F>((std::bit_cast<Bits<F>>(shifted) << 23) + (127u << 23));
    return ((p * r) * r + r + 1.0f) * scale;
  }
};

}  // namespace nanochat::simd
