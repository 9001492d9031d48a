// One AdamW step of many tensors in one pass, in place on parameters and moments.
//
//   p *= 1 - lr weight_decay
//   m += (1 - beta1) (g - m)       v = beta2 v + (1 - beta2) g^2
//   p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
//
// Source: decoupled weight decay, arXiv:1711.05101.
#pragma once

#include <cmath>
#include <span>

#include "common/placement.h"
#include "common/tensor_view.h"

namespace nanochat::adamw {

struct Step {
  // As many of each, of any shapes: a parameter, its gradient, its moments.
  std::span<const TensorView> params;      // fp32 or bf16, all alike
  std::span<const TensorView> grads;       // fp32 or bf16, all alike
  std::span<const TensorView> exp_avg;     // fp32
  std::span<const TensorView> exp_avg_sq;  // fp32
  int64_t step = 1;                        // t, from 1
  double lr = 0.0;
  double beta1 = 0.0;
  double beta2 = 0.0;
  double eps = 0.0;
  double weight_decay = 0.0;
};

// Throws std::invalid_argument for shapes, dtypes or strides against the rules above, all tensors
// being contiguous.
void step(const Step& p, const Placement& where);

// Behind the dispatch, on checked arguments.
void step_cpu(const Step& p, const Placement& where);
void step_cuda(const Step& p, const Placement& where);

[[nodiscard]] inline int64_t num_elements(const TensorView& view) {
  int64_t n = 1;
  for (int i = 0; i < view.rank; ++i) n *= view.sizes[i];
  return n;
}

// The maths of one element, for CPU and CUDA. Math has sqrt and F is what it takes.
struct Element {
  float keep;  // 1 - lr weight_decay
  float one_minus_beta1, beta2, one_minus_beta2;
  float inv_correction2;  // 1 / (1 - beta2^t)
  float eps;
  float rate;  // lr / (1 - beta1^t)

  explicit Element(const Step& p)
      : keep(static_cast<float>(1.0 - p.lr * p.weight_decay)),
        one_minus_beta1(static_cast<float>(1.0 - p.beta1)),
        beta2(static_cast<float>(p.beta2)),
        one_minus_beta2(static_cast<float>(1.0 - p.beta2)),
        inv_correction2(
            static_cast<float>(1.0 / (1.0 - std::pow(p.beta2, static_cast<double>(p.step))))),
        eps(static_cast<float>(p.eps)),
        rate(static_cast<float>(p.lr / (1.0 - std::pow(p.beta1, static_cast<double>(p.step))))) {}

  template <typename Math, typename F>
  NANOCHAT_HD void update(F& param, F& exp_avg, F& exp_avg_sq, F grad) const {
    exp_avg = exp_avg + (grad - exp_avg) * one_minus_beta1;
    exp_avg_sq = exp_avg_sq * beta2 + grad * grad * one_minus_beta2;
    param = param * keep - exp_avg / (Math::sqrt(exp_avg_sq * inv_correction2) + eps) * rate;
  }
};

}  // namespace nanochat::adamw
