#include "bpe/arrow.h"

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>

namespace nanochat::bpe {
namespace {

// A view of 16 bytes: the length, then up to 12 bytes of text, or 4 of them, a buffer and an
// offset.
struct StringView {
  static constexpr int32_t kMaxInline = 12;
  int32_t length;
  char prefix[4];
  int32_t buffer;
  int32_t offset;
};
static_assert(sizeof(StringView) == 16);

bool is_valid(const ArrowArray& array, int64_t i) {
  const auto* const bits = static_cast<const uint8_t*>(array.buffers[0]);
  return bits == nullptr || (bits[i / 8] >> (i % 8) & 1) != 0;
}

template <typename Offset>
Text offset_text(const ArrowArray& array, int64_t i) {
  const auto* const offsets = static_cast<const Offset*>(array.buffers[1]);
  return {.data = static_cast<const char*>(array.buffers[2]) + offsets[i],
          .length = static_cast<size_t>(offsets[i + 1] - offsets[i])};
}

Text view_text(const ArrowArray& array, int64_t i) {
  const char* const at =
      static_cast<const char*>(array.buffers[1]) + i * int64_t{sizeof(StringView)};
  StringView view;
  std::memcpy(&view, at, sizeof(view));
  const auto length = static_cast<size_t>(view.length);
  if (view.length <= StringView::kMaxInline) {
    return {.data = at + offsetof(StringView, prefix), .length = length};
  }
  return {.data = static_cast<const char*>(array.buffers[2 + view.buffer]) + view.offset,
          .length = length};
}

using Getter = Text (*)(const ArrowArray&, int64_t);

Getter getter_for(std::string_view format) {
  if (format == "u" || format == "z") return offset_text<int32_t>;
  if (format == "U" || format == "Z") return offset_text<int64_t>;
  if (format == "vu" || format == "vz") return view_text;
  throw std::invalid_argument("arrow arrays must hold strings or bytes, got format '" +
                              std::string(format) + "'");
}

}  // namespace

void append_texts(const ArrowSchema& schema, const ArrowArray& array, size_t index,
                  std::vector<Text>& texts) {
  const bool is_batch = std::string_view(schema.format) == "+s";
  if (is_batch && schema.n_children != 1) {
    throw std::invalid_argument("arrow tables must have one column, the text, got " +
                                std::to_string(schema.n_children));
  }
  const ArrowArray& column = is_batch ? *array.children[0] : array;
  const Getter get = getter_for(is_batch ? schema.children[0]->format : schema.format);
  const int64_t first = column.offset + (is_batch ? array.offset : 0);
  texts.reserve(texts.size() + static_cast<size_t>(array.length));
  for (int64_t i = 0; i < array.length; ++i) {
    if (!is_valid(column, first + i) || (is_batch && !is_valid(array, array.offset + i))) {
      throw std::invalid_argument("documents must not be null, got one at index " +
                                  std::to_string(index + static_cast<size_t>(i)) +
                                  "; drop the nulls first");
    }
    texts.push_back(get(column, first + i));
  }
}

}  // namespace nanochat::bpe
