#include "attention/attention.h"
#include "attention/prepass.h"
#include "common/bind_common.h"

namespace py = pybind11;

namespace nanochat {

void bind_attention(py::module_& m) {
  using View = const TensorView&;
  using py::arg;
  m.def(
      "prepass_forward",
      [](const Placement& where, View q, View k, View cos, View sin, View v, View ve, View gate,
         View q_hat, View k_hat, View v_hat, View q_inv_rms, View k_inv_rms, double qk_scale,
         double eps) {
        const py::gil_scoped_release release;
        attention::prepass_forward({.q = q,
                                    .k = k,
                                    .rope_norm = {.cos = cos,
                                                  .sin = sin,
                                                  .q_inv_rms = q_inv_rms,
                                                  .k_inv_rms = k_inv_rms,
                                                  .qk_scale = qk_scale},
                                    .v = v,
                                    .ve = ve,
                                    .gate = gate,
                                    .q_hat = q_hat,
                                    .k_hat = k_hat,
                                    .v_hat = v_hat,
                                    .eps = eps},
                                   where);
      },
      arg("where"), arg("q"), arg("k"), arg("cos"), arg("sin"), arg("v"), arg("ve"), arg("gate"),
      arg("q_hat"), arg("k_hat"), arg("v_hat"), arg("q_inv_rms"), arg("k_inv_rms"), py::kw_only(),
      arg("qk_scale"), arg("eps"),
      "Rope, QK-norm and value gate; writes the last five tensors (prepass.h).");
  m.def(
      "prepass_backward",
      [](const Placement& where, View dq_hat, View dk_hat, View q_hat, View k_hat, View q_inv_rms,
         View k_inv_rms, View cos, View sin, View dq, View dk, double qk_scale) {
        const py::gil_scoped_release release;
        attention::prepass_backward({.dq_hat = dq_hat,
                                     .dk_hat = dk_hat,
                                     .q_hat = q_hat,
                                     .k_hat = k_hat,
                                     .rope_norm = {.cos = cos,
                                                   .sin = sin,
                                                   .q_inv_rms = q_inv_rms,
                                                   .k_inv_rms = k_inv_rms,
                                                   .qk_scale = qk_scale},
                                     .dq = dq,
                                     .dk = dk},
                                    where);
      },
      arg("where"), arg("dq_hat"), arg("dk_hat"), arg("q_hat"), arg("k_hat"), arg("q_inv_rms"),
      arg("k_inv_rms"), arg("cos"), arg("sin"), arg("dq"), arg("dk"), py::kw_only(),
      arg("qk_scale"), "Gradient of prepass_forward in q and k; writes dq and dk.");
  m.def(
      "gate_backward",
      [](const Placement& where, View dv_hat, View ve, View gate, View dve, View dgate) {
        const py::gil_scoped_release release;
        attention::gate_backward(
            {.dv_hat = dv_hat, .ve = ve, .gate = gate, .dve = dve, .dgate = dgate}, where);
      },
      arg("where"), arg("dv_hat"), arg("ve"), arg("gate"), arg("dve"), arg("dgate"),
      "Gradient of prepass_forward in ve and gate; writes dve and dgate.");
  m.def(
      "attention_forward",
      [](const Placement& where, View q, View k, View v, View out, View lse, int64_t window,
         double scale, double score_bound) {
        const py::gil_scoped_release release;
        attention::forward({.q = q,
                            .k = k,
                            .v = v,
                            .out = out,
                            .lse = lse,
                            .window = window,
                            .scale = scale,
                            .score_bound = score_bound},
                           where);
      },
      arg("where"), arg("q"), arg("k"), arg("v"), arg("out"), arg("lse"), py::kw_only(),
      arg("window"), arg("scale"), arg("score_bound"),
      "Causal attention after the pre-pass; writes out and lse (attention.h).");
  m.def(
      "attention_backward",
      [](const Placement& where, View dout, View q, View k, View v, View out, View lse,
         View q_inv_rms, View k_inv_rms, View cos, View sin, View delta, View dq, View dk, View dv,
         View dq_sum, int64_t window, double scale, double qk_scale, bool is_deterministic) {
        const py::gil_scoped_release release;
        attention::backward({.dout = dout,
                             .q = q,
                             .k = k,
                             .v = v,
                             .out = out,
                             .lse = lse,
                             .rope_norm = {.cos = cos,
                                           .sin = sin,
                                           .q_inv_rms = q_inv_rms,
                                           .k_inv_rms = k_inv_rms,
                                           .qk_scale = qk_scale},
                             .delta = delta,
                             .dq = dq,
                             .dk = dk,
                             .dv = dv,
                             .window = window,
                             .scale = scale,
                             .is_deterministic = is_deterministic,
                             .dq_sum = dq_sum},
                            where);
      },
      arg("where"), arg("dout"), arg("q"), arg("k"), arg("v"), arg("out"), arg("lse"),
      arg("q_inv_rms"), arg("k_inv_rms"), arg("cos"), arg("sin"), arg("delta"), arg("dq"),
      arg("dk"), arg("dv"), arg("dq_sum"), py::kw_only(), arg("window"), arg("scale"),
      arg("qk_scale"), arg("is_deterministic"),
      "Gradient of attention_forward in v and in what q and k were before prepass_forward; writes "
      "dq, dk and dv.");
}

}  // namespace nanochat
