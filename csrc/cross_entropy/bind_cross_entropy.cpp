#include "common/bind_common.h"
#include "cross_entropy/cross_entropy.h"

namespace py = pybind11;

namespace nanochat {

void bind_cross_entropy(py::module_& m) {
  using View = const TensorView&;
  using py::arg;
  m.def(
      "cross_entropy_rows",
      [](const Placement& where, View logits, View targets, View loss, int64_t vocab_size,
         int64_t ignore_index, double softcap, bool with_gradient) {
        const py::gil_scoped_release release;
        cross_entropy::forward({.logits = logits,
                                .targets = targets,
                                .loss = loss,
                                .vocab_size = vocab_size,
                                .ignore_index = ignore_index,
                                .softcap = softcap,
                                .with_gradient = with_gradient},
                               where);
      },
      arg("where"), arg("logits"), arg("targets"), arg("loss"), py::kw_only(), arg("vocab_size"),
      arg("ignore_index"), arg("softcap"), arg("with_gradient"),
      "Loss of each row of logits and, in their place, its gradient (cross_entropy.h).");
}

}  // namespace nanochat
