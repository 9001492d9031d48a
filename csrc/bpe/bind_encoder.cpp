// Python face of the encoder: lists for one text, NumPy buffers for many.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bpe/batch_encoder.h"
#include "bpe/bind_texts.h"
#include "bpe/pretokenize.h"

namespace py = pybind11;

namespace nanochat {
namespace {

constexpr size_t kQuickBytes = 4096;  // below it, letting the GIL go costs more than the work

void raise_pending_signal() {
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// A NumPy array of the values, which it owns from now on.
template <typename Values>
py::array as_array(Values values) {
  auto owned = std::make_unique<Values>(std::move(values));
  const auto* const data = owned->data();
  const auto size = static_cast<py::ssize_t>(owned->size());
  const py::capsule owner(owned.get(), [](void* pointer) { delete static_cast<Values*>(pointer); });
  static_cast<void>(owned.release());
  return py::array_t<std::remove_const_t<std::remove_pointer_t<decltype(data)>>>(size, data, owner);
}

template <typename Id>
class PyEncoder {
 public:
  PyEncoder(const std::vector<std::string>& tokens, bpe::Splitter splitter)
      : encoder_(tokens, splitter) {}

  py::list encode(const py::object& text) const {
    TextBatch batch;
    if (!append_text(text, batch)) {
      throw py::type_error("tokenizer: text must be str or bytes, got " +
                           std::string(Py_TYPE(text.ptr())->tp_name));
    }
    const auto encoded = run(batch, 1);
    py::list ids(encoded.ids.size());
    for (size_t i = 0; i < encoded.ids.size(); ++i) {
      PyList_SET_ITEM(ids.ptr(), static_cast<Py_ssize_t>(i),
                      PyLong_FromLong(encoded.ids.data()[i]));
    }
    return ids;
  }

  py::tuple encode_to_numpy(const py::object& texts, int num_threads) const {
    TextBatch batch;
    TextReader(texts, "tokenizer").read(std::numeric_limits<size_t>::max(), batch);
    bpe::EncodedTexts<Id> encoded = run(batch, num_threads);
    return py::make_tuple(as_array(std::move(encoded.ids)), as_array(std::move(encoded.offsets)));
  }

 private:
  bpe::EncodedTexts<Id> run(const TextBatch& batch, int num_threads) const {
    if (batch.num_bytes < kQuickBytes) return encoder_.encode(batch.texts, 1, [] {});
    const py::gil_scoped_release release;
    return encoder_.encode(batch.texts, num_threads, raise_pending_signal);
  }

  bpe::BatchEncoder<Id> encoder_;
};

template <typename Id>
void bind(py::module_& m, const char* name) {
  py::class_<PyEncoder<Id>>(m, name)
      .def(py::init([](const std::vector<std::string>& tokens, const std::string& pattern) {
             return std::make_unique<PyEncoder<Id>>(
                 tokens, bpe::splitter_for(pattern).value_or(bpe::Splitter::kWhole));
           }),
           py::arg("tokens"), py::arg("pattern"))
      .def("encode", &PyEncoder<Id>::encode, py::arg("text"))
      .def("encode_to_numpy", &PyEncoder<Id>::encode_to_numpy, py::arg("texts"),
           py::arg("num_threads"));
}

}  // namespace

void bind_encoder(py::module_& m) {
  bind<uint16_t>(m, "BpeEncoder16");
  bind<uint32_t>(m, "BpeEncoder32");
}

}  // namespace nanochat
