// A stack of matrices for one step of Muon, in memory of exactly its size.
#pragma once

#include "muon/matrices.h"
#include "muon/muon.h"

namespace nanochat {

// Memory of a stack, and its views.
struct Stack {
  int64_t K, m, n;
  std::vector<std::vector<float>> grads, params;
  std::vector<float> momentum, second, workspace;
  std::vector<TensorView> grad_views, param_views;

  Stack(int64_t num, int64_t rows, int64_t columns, float grad_scale = 1.0f)
      : K(num), m(rows), n(columns) {
    const auto size = static_cast<size_t>(m * n);
    for (int64_t k = 0; k < K; ++k) {
      const auto seed = static_cast<unsigned>(2 * k);
      grads.push_back(gaussian(size, seed, grad_scale));
      params.push_back(gaussian(size, seed + 1, 1e-2f));  // small: a decay weighs less than a step
    }
    momentum = gaussian(size * static_cast<size_t>(K), 99, grad_scale);
    second = gaussian(static_cast<size_t>(K * std::max(m, n)), 98);
    for (float& x : second) x *= 0.1f * x;  // a factor for each row or column
    workspace.assign(static_cast<size_t>(muon::workspace_size(K, m, n)), NAN);
  }

  void step(const Placement& where, double mu = 0.9, DType inner = DType::kFloat32) {
    grad_views.clear();
    param_views.clear();
    for (const auto& grad : grads) grad_views.push_back(view(grad.data(), DType::kFloat32, {m, n}));
    for (auto& param : params) param_views.push_back(view(param.data(), DType::kFloat32, {m, n}));
    muon::step({.grads = grad_views,
                .params = param_views,
                .momentum_buffer = view(momentum.data(), DType::kFloat32, {K, m, n}),
                .second_moment = m >= n ? view(second.data(), DType::kFloat32, {K, m, 1})
                                        : view(second.data(), DType::kFloat32, {K, 1, n}),
                .workspace = view(workspace.data(), DType::kFloat32,
                                  {static_cast<int64_t>(workspace.size())}),
                .inner_dtype = inner,
                .lr = 0.02,
                .momentum = mu,
                .beta2 = 0.9,
                .weight_decay = 0.3},
               where);
  }
};

}  // namespace nanochat
