// Python face of the trainer: streams documents, releases the GIL, answers Ctrl-C.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/pretokenize.h"
#include "bpe/trainer.h"

namespace py = pybind11;

namespace nanochat {
namespace {

// Documents are held until a batch is full; this bounds memory whatever the iterable does.
constexpr size_t kBatchBytes = size_t{16} << 20;
constexpr size_t kDocumentBytes = 64;  // what even an empty document counts

void raise_pending_signal() {
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// A document that the trainer can read without the GIL while `owner` is held.
struct Document {
  py::object owner;
  std::string_view bytes;
};

Document read_document(py::object text, size_t index) {
  if (PyUnicode_Check(text.ptr())) {
    if (PyUnicode_IS_COMPACT_ASCII(text.ptr())) {  // its bytes are UTF-8 already
      const auto size = static_cast<size_t>(PyUnicode_GET_LENGTH(text.ptr()));
      const auto* data = static_cast<const char*>(PyUnicode_DATA(text.ptr()));
      return {std::move(text), {data, size}};
    }
    // Not PyUnicode_AsUTF8AndSize: that would leave a copy inside of the caller's string.
    PyObject* encoded = PyUnicode_AsUTF8String(text.ptr());
    if (encoded == nullptr) {
      if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError) == 0) throw py::error_already_set();
      PyErr_Clear();
      throw py::value_error("train_bpe: document " + std::to_string(index) +
                            " has a lone surrogate, which is not text; drop it or replace it by "
                            "text.encode('utf-8', 'replace')");
    }
    text = py::reinterpret_steal<py::object>(encoded);
  }
  if (!PyBytes_Check(text.ptr())) {
    throw py::type_error("train_bpe: documents must be str or bytes, got " +
                         std::string(Py_TYPE(text.ptr())->tp_name) + " at index " +
                         std::to_string(index));
  }
  const auto size = static_cast<size_t>(PyBytes_GET_SIZE(text.ptr()));
  const char* data = PyBytes_AS_STRING(text.ptr());
  return {std::move(text), {data, size}};
}

std::vector<py::bytes> train(const py::iterable& texts, int64_t vocab_size, int num_threads) {
  if (py::isinstance<py::str>(texts) || py::isinstance<py::bytes>(texts)) {
    throw py::type_error("train_bpe: texts must be an iterable of documents, got one " +
                         std::string(Py_TYPE(texts.ptr())->tp_name) + "; pass [text]");
  }
  if (vocab_size < bpe::kMinVocabSize) {
    throw py::value_error("train_bpe: vocab_size must be at least " +
                          std::to_string(bpe::kMinVocabSize) + " (the bytes), got " +
                          std::to_string(vocab_size));
  }
  bpe::Trainer trainer(num_threads);
  std::vector<py::object> owners;
  std::vector<std::string_view> batch;
  size_t batch_bytes = 0;
  const auto flush = [&] {
    {
      const py::gil_scoped_release release;
      trainer.add(batch);
    }
    owners.clear();
    batch.clear();
    batch_bytes = 0;
    raise_pending_signal();
  };
  size_t index = 0;
  for (const py::handle text : texts) {
    Document document = read_document(py::reinterpret_borrow<py::object>(text), index++);
    batch_bytes += document.bytes.size() + kDocumentBytes;
    batch.push_back(document.bytes);
    owners.push_back(std::move(document.owner));
    if (batch_bytes >= kBatchBytes) flush();
  }
  flush();
  std::vector<std::string> tokens;
  {
    const py::gil_scoped_release release;
    tokens = trainer.train(vocab_size, raise_pending_signal);
  }
  return {tokens.begin(), tokens.end()};
}

std::vector<py::bytes> pretokenize(const py::bytes& text) {
  const std::string_view view = text;
  std::vector<py::bytes> pieces;
  std::array<size_t, 64> ends;
  size_t begin = 0;
  for (size_t n = ends.size(); n == ends.size();) {
    n = bpe::pretokenize(view, begin, ends);
    for (size_t i = 0; i < n; ++i) {
      pieces.emplace_back(view.substr(begin, ends[i] - begin));
      begin = ends[i];
    }
  }
  return pieces;
}

int char_class(uint32_t code_point) {
  if (code_point > 0x10FFFF) throw py::value_error("char_class: not a code point");
  return static_cast<int>(bpe::char_class(code_point));
}

}  // namespace

void bind_bpe(py::module_& m) {
  m.attr("SPLIT_PATTERN") = std::string(bpe::kSplitPattern);
  m.attr("UNICODE_VERSION") = std::string(bpe::kUnicodeVersion);
  m.def("bpe_train", &train, py::arg("texts"), py::arg("vocab_size"), py::arg("num_threads"),
        "Tokens in the order of ids: the 256 bytes, then the merges.");
  m.def("bpe_pretokenize", &pretokenize, py::arg("text"), "The pieces that merges never cross.");
  m.def("bpe_char_class", &char_class, py::arg("code_point"),
        "0 other, 1 letter, 2 number, 3 white space, 4 CR or LF.");
}

}  // namespace nanochat
