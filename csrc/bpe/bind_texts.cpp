#include "bpe/bind_texts.h"

#include <memory>
#include <string>
#include <utility>

#include "bpe/arrow.h"

namespace py = pybind11;

namespace nanochat {
namespace {

using bpe::Text;

constexpr size_t kTextBytes = 64;  // what even an empty text counts, so that batches end
constexpr char kArrayCapsule[] = "arrow_array";
constexpr char kSchemaCapsule[] = "arrow_schema";
constexpr char kStreamCapsule[] = "arrow_array_stream";

Text text_of_str(PyObject* text) {
#if PY_VERSION_HEX < 0x030C0000
  if (PyUnicode_READY(text) != 0) throw py::error_already_set();
#endif
  const auto length = static_cast<size_t>(PyUnicode_GET_LENGTH(text));
  const void* const data = PyUnicode_DATA(text);
  if (PyUnicode_IS_ASCII(text)) return {data, length, Text::Form::kUtf8};
  switch (PyUnicode_KIND(text)) {
    case PyUnicode_1BYTE_KIND:
      return {data, length, Text::Form::kLatin1};
    case PyUnicode_2BYTE_KIND:
      return {data, length, Text::Form::kUcs2};
    default:
      return {data, length, Text::Form::kUcs4};
  }
}

bool is_text(PyObject* object) {
  return PyUnicode_Check(object) || PyBytes_Check(object);
}

template <typename T>
T& from_capsule(py::handle capsule, const char* name) {
  void* const pointer = PyCapsule_GetPointer(capsule.ptr(), name);
  if (pointer == nullptr) throw py::error_already_set();
  return *static_cast<T*>(pointer);
}

// A structure of the Arrow interface in a capsule that releases it.
template <typename T>
py::object make_capsule(std::unique_ptr<T> filled, const char* name) {
  PyObject* const capsule = PyCapsule_New(filled.get(), name, [](PyObject* self) {
    const std::unique_ptr<T> owned(
        static_cast<T*>(PyCapsule_GetPointer(self, PyCapsule_GetName(self))));
    if (owned->release != nullptr) owned->release(owned.get());
  });
  if (capsule == nullptr) throw py::error_already_set();
  static_cast<void>(filled.release());
  return py::reinterpret_steal<py::object>(capsule);
}

void append_array(const py::object& schema, py::object array, const char* operation, size_t index,
                  TextBatch& batch) {
  const size_t first = batch.texts.size();
  try {
    bpe::append_texts(from_capsule<ArrowSchema>(schema, kSchemaCapsule),
                      from_capsule<ArrowArray>(array, kArrayCapsule), index, batch.texts);
  } catch (const std::invalid_argument& error) {
    throw py::type_error(std::string(operation) + ": " + error.what());
  }
  for (size_t i = first; i < batch.texts.size(); ++i) {
    batch.num_bytes += batch.texts[i].num_bytes() + kTextBytes;
  }
  batch.owners.push_back(std::move(array));
}

void check_stream(int status, ArrowArrayStream& stream, const char* operation) {
  if (status == 0) return;
  const char* const reason = stream.get_last_error(&stream);
  throw py::value_error(std::string(operation) + ": cannot read the arrow stream: " +
                        (reason != nullptr ? reason : "no reason given"));
}

}  // namespace

bool append_text(py::handle object, TextBatch& batch) {
  PyObject* const pointer = object.ptr();
  if (PyUnicode_Check(pointer)) {
    batch.texts.push_back(text_of_str(pointer));
  } else if (PyBytes_Check(pointer)) {
    batch.texts.push_back({PyBytes_AS_STRING(pointer),
                           static_cast<size_t>(PyBytes_GET_SIZE(pointer)), Text::Form::kUtf8});
  } else {
    return false;
  }
  batch.num_bytes += batch.texts.back().num_bytes() + kTextBytes;
  batch.owners.push_back(py::reinterpret_borrow<py::object>(object));
  return true;
}

TextReader::TextReader(const py::object& texts, const char* operation) : operation_(operation) {
  if (is_text(texts.ptr())) {
    throw py::type_error(std::string(operation) + ": texts must be an iterable of texts, got one " +
                         Py_TYPE(texts.ptr())->tp_name + "; pass [text]");
  }
  if (py::hasattr(texts, "__arrow_c_stream__")) {
    items_ = texts.attr("__arrow_c_stream__")();
    auto& stream = from_capsule<ArrowArrayStream>(items_, kStreamCapsule);
    auto schema = std::make_unique<ArrowSchema>();
    check_stream(stream.get_schema(&stream, schema.get()), stream, operation);
    schema_ = make_capsule(std::move(schema), kSchemaCapsule);
  } else if (py::hasattr(texts, "__arrow_c_array__")) {
    items_ = py::iter(py::make_tuple(texts));
  } else {
    items_ = py::iter(texts);
  }
}

bool TextReader::read(size_t num_bytes, TextBatch& batch) {
  while (batch.num_bytes < num_bytes) {
    const size_t first = batch.texts.size();
    if (schema_) {
      auto& stream = from_capsule<ArrowArrayStream>(items_, kStreamCapsule);
      auto array = std::make_unique<ArrowArray>();
      check_stream(stream.get_next(&stream, array.get()), stream, operation_);
      if (array->release == nullptr) break;  // the end
      append_array(schema_, make_capsule(std::move(array), kArrayCapsule), operation_, index_,
                   batch);
    } else {
      PyObject* const item = PyIter_Next(items_.ptr());
      if (item == nullptr) {
        if (PyErr_Occurred() != nullptr) throw py::error_already_set();
        break;
      }
      const auto object = py::reinterpret_steal<py::object>(item);
      if (!is_text(item) && py::hasattr(object, "__arrow_c_array__")) {
        const py::tuple capsules = object.attr("__arrow_c_array__")();
        append_array(capsules[0], capsules[1], operation_, index_, batch);
      } else if (!append_text(object, batch)) {
        throw py::type_error(std::string(operation_) +
                             ": texts must be str, bytes or Arrow arrays, got " +
                             Py_TYPE(item)->tp_name + " at index " + std::to_string(index_));
      }
    }
    index_ += batch.texts.size() - first;
  }
  return !batch.texts.empty();
}

}  // namespace nanochat
