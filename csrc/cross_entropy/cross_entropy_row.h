// Element maths of the loss, shared by the CPU loops and the kernels. F is a float or a vector of
// floats; Math has exp (finite for any number) and reciprocal for it.
//
// With a softcap all is said in e = exp(2 l / cap) and w = 1 - tanh(l / cap) = 2 / (e + 1):
//   z = cap - cap w            so the softmax's exponent, shifted by the constant cap, is -cap w
//   dz / dl = w^2 e            1 - tanh^2 without cancellation on either side
// One exponential and one division here, one exponential in the softmax; and no pass for the
// maximum, which a bounded z does not need while exp(-2 cap) is a normal number.
#pragma once

#include "common/dtype.h"

namespace nanochat::cross_entropy {

inline constexpr float kMaxFixedShiftCap = 40.0f;  // exp(-2 * 40) = 1.8e-35, normal down to 1.2e-38

template <typename F>
struct Element {
  F exponent;  // z, shifted by a constant of the row
  F slope;     // dz / dl
};

template <bool kSoftcap>
struct RowMaths {
  float cap;
  float two_over_cap;
  float origin;  // what the shift subtracts: w (0 is a bound), or the row's largest logit

  template <typename Math, typename F>
  NANOCHAT_HD Element<F> element(F logit) const {
    if constexpr (kSoftcap) {
      const F e = Math::exp(logit * two_over_cap);
      const F w = one_minus_tanh<Math>(e);
      return {(origin - w) * cap, w * w * e};
    } else {
      return {logit - origin, F{} + 1.0f};
    }
  }

  // True if `origin` must be set from the row's largest logit.
  NANOCHAT_HD static bool needs_max(float cap) { return !kSoftcap || cap > kMaxFixedShiftCap; }

  template <typename Math>
  NANOCHAT_HD void set_origin(float max_logit) {
    if constexpr (kSoftcap) {
      origin = one_minus_tanh<Math>(Math::exp(max_logit * two_over_cap));
    } else {
      origin = max_logit;
    }
  }

 private:
  template <typename Math, typename F>
  NANOCHAT_HD static F one_minus_tanh(F e) {
    return Math::reciprocal(e + 1.0f) * 2.0f;
  }
};

}  // namespace nanochat::cross_entropy
