// Python face of the sampler alone, with which tests compare it to nanochat.engine.sampling.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/check.h"
#include "engine/sampler.h"

namespace py = pybind11;

namespace nanochat {
namespace {

py::tuple sample(const py::array& logits, float softcap, double temperature, int top_k,
                 double top_p, double min_p, double repetition_penalty, int num_logprobs,
                 uint64_t seed, uint64_t sample_index, int64_t position,
                 const std::vector<int32_t>& seen) {
  using Logits = py::array_t<float, py::array::c_style>;
  check(py::isinstance<Logits>(logits) && logits.ndim() == 1,
        "sampler: logits must be a contiguous 1-D array of float32, got ", logits.ndim(), "-D of ",
        std::string(py::str(logits.dtype())));
  const std::span row(static_cast<const float*>(logits.data()), static_cast<size_t>(logits.size()));
  const engine::SamplingParams params{.temperature = temperature,
                                      .top_k = top_k,
                                      .top_p = top_p,
                                      .min_p = min_p,
                                      .repetition_penalty = repetition_penalty,
                                      .num_logprobs = num_logprobs};
  const engine::Draw draw{
      .params = &params, .seed = seed, .sample = sample_index, .position = position, .seen = seen};
  engine::SamplerScratch scratch;
  const engine::Drawn drawn = engine::sample(row, softcap, draw, scratch);
  py::list top;
  for (const auto& [token, logprob] : drawn.top) top.append(py::make_tuple(token, logprob));
  return py::make_tuple(drawn.token, drawn.logprob, top);
}

}  // namespace

void bind_sampler(py::module_& m) {
  m.def("sample", &sample, py::arg("logits"), py::arg("softcap"), py::kw_only(),
        py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("min_p"),
        py::arg("repetition_penalty"), py::arg("num_logprobs"), py::arg("seed"), py::arg("sample"),
        py::arg("position"), py::arg("seen"),
        "(token, its log-probability, [(token, log-probability)] of the likeliest).");
}

}  // namespace nanochat
