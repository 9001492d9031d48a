// Texts out of Python objects: str, bytes, and Arrow arrays of either, without copies.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "bpe/text.h"

namespace nanochat {

// Texts that may be read without the GIL; made, cleared and destroyed under it.
struct TextBatch {
  std::vector<pybind11::object> owners;
  std::vector<bpe::Text> texts;
  size_t num_bytes = 0;
};

// Appends a str or bytes; false if the object is neither.
bool append_text(pybind11::handle object, TextBatch& batch);

// Reads an iterable, or an Arrow stream, batch by batch.
class TextReader {
 public:
  TextReader(const pybind11::object& texts, const char* operation);

  // Appends texts until the batch holds about `num_bytes`; false at the end. What the iterable
  // raises arrives unchanged.
  bool read(size_t num_bytes, TextBatch& batch);

 private:
  const char* operation_;
  pybind11::object items_;   // an iterator, or the capsule of a stream
  pybind11::object schema_;  // of the stream
  size_t index_ = 0;
};

}  // namespace nanochat
