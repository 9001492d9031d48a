#include <pybind11/stl.h>

#include "common/bind_common.h"
#include "muon/adamw.h"
#include "muon/muon.h"

namespace py = pybind11;

namespace nanochat {

void bind_muon(py::module_& m) {
  using View = const TensorView&;
  using Views = const std::vector<TensorView>&;
  using py::arg;
  m.def(
      "muon_step",
      [](const Placement& where, Views grads, Views params, View momentum_buffer,
         View second_moment, View workspace, bool is_bf16, double lr, double momentum, double beta2,
         double weight_decay) {
        const py::gil_scoped_release release;
        muon::step({.grads = grads,
                    .params = params,
                    .momentum_buffer = momentum_buffer,
                    .second_moment = second_moment,
                    .workspace = workspace,
                    .inner_dtype = is_bf16 ? DType::kBFloat16 : DType::kFloat32,
                    .lr = lr,
                    .momentum = momentum,
                    .beta2 = beta2,
                    .weight_decay = weight_decay},
                   where);
      },
      arg("where"), arg("grads"), arg("params"), arg("momentum_buffer"), arg("second_moment"),
      arg("workspace"), py::kw_only(), arg("is_bf16"), arg("lr"), arg("momentum"), arg("beta2"),
      arg("weight_decay"), "One Muon step of a stack of matrices, in place (muon.h).");
  m.def("muon_workspace_size", &muon::workspace_size, arg("K"), arg("m"), arg("n"),
        "fp32 elements of the workspace of a stack (K, m, n) on CUDA.");
  m.def(
      "adamw_step",
      [](const Placement& where, Views params, Views grads, Views exp_avg, Views exp_avg_sq,
         int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay) {
        const py::gil_scoped_release release;
        adamw::step({.params = params,
                     .grads = grads,
                     .exp_avg = exp_avg,
                     .exp_avg_sq = exp_avg_sq,
                     .step = step,
                     .lr = lr,
                     .beta1 = beta1,
                     .beta2 = beta2,
                     .eps = eps,
                     .weight_decay = weight_decay},
                    where);
      },
      arg("where"), arg("params"), arg("grads"), arg("exp_avg"), arg("exp_avg_sq"), py::kw_only(),
      arg("step"), arg("lr"), arg("beta1"), arg("beta2"), arg("eps"), arg("weight_decay"),
      "One AdamW step of a list of tensors, in place (adamw.h).");
}

}  // namespace nanochat
