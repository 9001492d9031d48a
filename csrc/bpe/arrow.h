// Texts in Arrow arrays, read in place: the C data interface, whose two structures are its ABI.
// https://arrow.apache.org/docs/format/CDataInterface.html
#pragma once

#include <cstdint>
#include <vector>

#include "bpe/text.h"

extern "C" {
struct ArrowSchema {
  const char* format;
  const char* name;
  const char* metadata;
  int64_t flags;
  int64_t n_children;
  ArrowSchema** children;
  ArrowSchema* dictionary;
  void (*release)(ArrowSchema*);
  void* private_data;
};

struct ArrowArray {
  int64_t length;
  int64_t null_count;
  int64_t offset;
  int64_t n_buffers;
  int64_t n_children;
  const void** buffers;
  ArrowArray** children;
  ArrowArray* dictionary;
  void (*release)(ArrowArray*);
  void* private_data;
};

struct ArrowArrayStream {
  int (*get_schema)(ArrowArrayStream*, ArrowSchema*);
  int (*get_next)(ArrowArrayStream*, ArrowArray*);
  const char* (*get_last_error)(ArrowArrayStream*);
  void (*release)(ArrowArrayStream*);
  void* private_data;
};
}  // extern "C"

namespace nanochat::bpe {

// Appends the texts of an array of strings or bytes: utf8, large_utf8, binary, large_binary and
// the two view types, or a record batch with one such column. They point into the array.
// Throws std::invalid_argument for another type, a column too many, or a null; `index` is the
// number of the first text in the message.
void append_texts(const ArrowSchema& schema, const ArrowArray& array, size_t index,
                  std::vector<Text>& texts);

}  // namespace nanochat::bpe
