// nanochat._core: one bind_* call per capability. Links neither torch nor a CUDA driver.
#include <pybind11/pybind11.h>

namespace nanochat {
void bind_common(pybind11::module_& m);
void bind_bpe(pybind11::module_& m);
void bind_encoder(pybind11::module_& m);
void bind_packer(pybind11::module_& m);
void bind_attention(pybind11::module_& m);
void bind_cross_entropy(pybind11::module_& m);
void bind_muon(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_sampler(pybind11::module_& m);
}  // namespace nanochat

PYBIND11_MODULE(_core, m) {
  m.doc() =
      "Native core of nanochat: BPE, attention, loss, engine. Takes plain views; knows no torch.";
  nanochat::bind_common(m);
  nanochat::bind_bpe(m);
  nanochat::bind_encoder(m);
  nanochat::bind_packer(m);
  nanochat::bind_attention(m);
  nanochat::bind_cross_entropy(m);
  nanochat::bind_muon(m);
  nanochat::bind_engine(m);
  nanochat::bind_sampler(m);
}
