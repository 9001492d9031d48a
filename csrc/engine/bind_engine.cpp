// Python face of the engine. Nothing here calls back into Python: requests go in, events come out,
// and whoever waits for them has released the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <utility>

#include "common/bind_common.h"
#include "engine/cpu/cpu_model.h"
#include "engine/cuda/cuda_model.h"
#include "engine/engine.h"

namespace py = pybind11;

namespace nanochat {
namespace {

using engine::Engine;

template <typename T>
T field(const py::dict& fields, const char* name) {
  check(fields.contains(name), "engine: the config must have ", name);
  return fields[name].cast<T>();
}

engine::ModelConfig config_from(const py::dict& fields) {
  engine::ModelConfig config{
      .n_layer = field<int>(fields, "n_layer"),
      .n_head = field<int>(fields, "n_head"),
      .n_kv_head = field<int>(fields, "n_kv_head"),
      .head_dim = field<int>(fields, "head_dim"),
      .n_embd = field<int>(fields, "n_embd"),
      .mlp_width = field<int>(fields, "mlp_width"),
      .vocab_size = field<int>(fields, "vocab_size"),
      .seq_len = field<int>(fields, "seq_len"),
      .rope_base = field<double>(fields, "rope_base"),
      .norm_eps = field<float>(fields, "norm_eps"),
      .qk_scale = field<float>(fields, "qk_scale"),
      .softcap = field<float>(fields, "softcap"),
      .windows = field<std::vector<int>>(fields, "windows"),
      .has_value_embedding = field<std::vector<bool>>(fields, "has_value_embedding"),
      .ve_gate_channels = field<int>(fields, "ve_gate_channels"),
      .smear_gate_channels = field<int>(fields, "smear_gate_channels"),
      .backout_layer = field<int>(fields, "backout_layer"),
      .use_residual_lambdas = field<bool>(fields, "use_residual_lambdas"),
  };
  return config;
}

engine::Tensors tensors_from(const py::dict& views) {
  engine::Tensors tensors;
  for (const auto& [name, view] : views) {
    tensors[name.cast<std::string>()] = view.cast<TensorView>();
  }
  return tensors;
}

py::object logprobs_of(const std::vector<engine::Drawn>& drawn, bool are_wanted) {
  if (!are_wanted) return py::none();
  py::list all;
  for (const engine::Drawn& one : drawn) {
    py::list top;
    for (const auto& [token, logprob] : one.top) top.append(py::make_tuple(token, logprob));
    all.append(py::make_tuple(one.logprob, top));
  }
  return all;
}

py::list wait(Engine& self, double seconds) {
  std::vector<engine::Event> events;
  {
    const py::gil_scoped_release release;
    events = self.wait(seconds);
  }
  py::list out;
  for (const engine::Event& event : events) {
    py::list tokens;
    for (const engine::Drawn& drawn : event.drawn) tokens.append(drawn.token);
    out.append(py::make_tuple(event.id, tokens, logprobs_of(event.drawn, event.has_logprobs),
                              event.is_paused, static_cast<int>(event.finish), event.num_cached));
  }
  return out;
}

py::dict statistics(Engine& self) {
  const engine::Statistics s = self.statistics();
  py::dict out;
  out["queued"] = s.num_queued;
  out["running"] = s.num_running;
  out["pages"] = s.num_pages;
  out["free_pages"] = s.num_free_pages;
  out["idle_pages"] = s.num_idle_pages;
  out["steps"] = s.num_steps;
  out["drawn_tokens"] = s.num_drawn;
  out["computed_tokens"] = s.num_computed;
  out["cached_tokens"] = s.num_cached;
  out["drafted_tokens"] = s.num_drafted;
  out["accepted_tokens"] = s.num_accepted;
  out["preemptions"] = s.num_preempted;
  out["bytes_read"] = s.num_bytes;
  out["step_seconds"] = s.step_seconds;
  return out;
}

}  // namespace

void bind_engine(py::module_& m) {
  using py::arg;
  m.def(
      "best_isa", [] { return static_cast<int>(engine::best_isa()); },
      "Best instruction level of the engine here: 0 base, 1 AVX2, 2 AVX-512, 3 AVX-512 BF16.");

  py::class_<Engine>(m, "Engine", "Continuous batching on a thread of its own (engine.h).")
      .def(py::init([](const py::dict& config, const py::dict& tensors, int precision, int isa,
                       int threads, int slots, int pages, int max_chunk, int max_chunk_beside,
                       bool shares_prefixes, int max_drafts, int max_burst, int cuda_device) {
             const engine::ModelConfig model_config = config_from(config);
             const engine::Tensors views = tensors_from(tensors);
             engine::EngineOptions options{.vocab_size = model_config.vocab_size,
                                           .context = model_config.seq_len,
                                           .softcap = model_config.softcap,
                                           .num_slots = slots,
                                           .num_pages = pages,
                                           .max_chunk = max_chunk,
                                           .max_chunk_beside = max_chunk_beside,
                                           .shares_prefixes = shares_prefixes,
                                           .max_drafts = max_drafts,
                                           .max_burst = max_burst};
             const engine::CpuOptions cpu{
                 .precision = static_cast<engine::Precision>(precision),
                 .isa = isa < 0 ? engine::best_isa() : static_cast<engine::Isa>(isa),
                 .num_threads = threads,
                 .num_pages = pages};
             const py::gil_scoped_release release;
             if (cuda_device >= 0) {
               const int max_tokens = max_chunk + slots * (1 + max_drafts);
               return std::make_unique<Engine>(
                   engine::make_cuda_model(model_config, views, pages, max_tokens, cuda_device),
                   options);
             }
             auto model = std::make_unique<engine::CpuModel>(model_config, views, cpu);
             options.weight_bytes = model->weight_bytes();
             options.token_bytes = model->page_bytes() / engine::kPageTokens;
             return std::make_unique<Engine>(std::move(model), options);
           }),
           arg("config"), arg("tensors"), py::kw_only(), arg("precision"), arg("isa"),
           arg("threads"), arg("slots"), arg("pages"), arg("max_chunk"), arg("max_chunk_beside"),
           arg("shares_prefixes"), arg("max_drafts"), arg("max_burst"), arg("cuda_device"))
      .def(
          "submit",
          [](Engine& self, std::vector<int32_t> prompt, double temperature, int top_k, double top_p,
             double min_p, double repetition_penalty, int logprobs, uint64_t seed, uint64_t sample,
             int max_tokens, std::vector<int32_t> stop_ids, std::vector<int32_t> pause_ids) {
            return self.submit({.prompt = std::move(prompt),
                                .sampling = {.temperature = temperature,
                                             .top_k = top_k,
                                             .top_p = top_p,
                                             .min_p = min_p,
                                             .repetition_penalty = repetition_penalty,
                                             .num_logprobs = logprobs},
                                .seed = seed,
                                .sample = sample,
                                .max_tokens = max_tokens,
                                .stop_ids = std::move(stop_ids),
                                .pause_ids = std::move(pause_ids)});
          },
          arg("prompt"), py::kw_only(), arg("temperature"), arg("top_k"), arg("top_p"),
          arg("min_p"), arg("repetition_penalty"), arg("logprobs"), arg("seed"), arg("sample"),
          arg("max_tokens"), arg("stop_ids"), arg("pause_ids"))
      .def(
          "load_weights",
          [](Engine& self, const py::dict& tensors) {
            const engine::Tensors views = tensors_from(tensors);
            const py::gil_scoped_release release;
            self.load_weights(views);
          },
          arg("tensors"), "Other weights of the same config, in place; while nothing runs.")
      .def("cancel", &Engine::cancel, arg("id"))
      .def("resume", &Engine::resume, arg("id"), arg("tokens"))
      .def("wait", &wait, arg("seconds"),
           "Events (id, tokens, logprobs, is_paused, finish, cached tokens) since the last call.")
      .def("statistics", &statistics)
      .def("failure", &Engine::failure)
      .def("close", &Engine::close, py::call_guard<py::gil_scoped_release>())
      .def(
          "logits",
          [](Engine& self, const std::vector<int32_t>& tokens) {
            const auto shape = std::vector<py::ssize_t>{static_cast<py::ssize_t>(tokens.size()),
                                                        self.vocab_size()};
            py::array_t<float> out(shape);
            float* const data = out.mutable_data();
            const py::gil_scoped_release release;
            self.logits(tokens, data);
            return out;
          },
          arg("tokens"), "Softcapped logits (tokens, vocab_size) fp32 after each of the tokens.")
      .def(
          "scores",
          [](Engine& self, std::vector<std::vector<std::pair<std::vector<int32_t>, int>>> groups) {
            std::vector<std::vector<std::pair<double, bool>>> out;
            const py::gil_scoped_release release;
            std::vector<engine::ScoredGroup> scored;
            for (auto& group : groups) {
              scored.emplace_back();
              for (auto& [tokens, first] : group)
                scored.back().push_back({std::move(tokens), first});
            }
            for (const auto& group : self.scores(scored)) {
              out.emplace_back();
              for (const engine::RowScore& row : group) {
                out.back().emplace_back(row.nats, row.is_greedy);
              }
            }
            return out;
          },
          arg("groups"),
          "For each row (tokens, first scored) of each group: nats, and whether each scored token "
          "is the likeliest.");
}

}  // namespace nanochat
