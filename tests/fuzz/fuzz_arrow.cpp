// Bytes -> texts, or nulls, laid out by hand as Arrow arrays of every type that is read: slices,
// buffers with no byte too many, a record batch around them. The texts come back, or the null is
// named.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/arrow.h"
#include "input.h"
#include "require.h"

namespace {

using namespace nanochat;

constexpr const char* kFormats[] = {"u", "z", "U", "Z", "vu", "vz"};
constexpr size_t kMaxTexts = 100;
constexpr size_t kFirstIndex = 1000;  // texts of earlier arrays

using Values = std::vector<std::optional<std::string>>;
using Buffer = std::vector<char>;  // as long as it has to be

template <typename T>
void append(Buffer& buffer, T value) {
  const auto* const bytes = reinterpret_cast<const char*>(&value);
  buffer.insert(buffer.end(), bytes, bytes + sizeof(T));
}

// An array that owns what it points to.
struct Column {
  std::vector<Buffer> buffers;
  std::vector<const void*> addresses;
  ArrowArray array{};
  ArrowSchema schema{};

  void finish(const char* format, int64_t length, int64_t offset) {
    for (Buffer& buffer : buffers) {
      buffer = Buffer(buffer.begin(), buffer.end());  // exactly
      addresses.push_back(buffer.empty() ? nullptr : buffer.data());
    }
    schema.format = format;
    array.length = length;
    array.offset = offset;
    array.n_buffers = static_cast<int64_t>(addresses.size());
    array.buffers = addresses.data();
  }
};

Buffer validity(const Values& values, bool is_kept) {
  Buffer bits(is_kept ? (values.size() + 7) / 8 : 0);
  for (size_t i = 0; i < values.size() && is_kept; ++i) {
    if (values[i]) bits[i / 8] = static_cast<char>(bits[i / 8] | 1 << (i % 8));
  }
  return bits;
}

template <typename Offset>
void lay_out_offsets(const Values& values, Offset first, Column& column) {
  Buffer offsets, bytes(static_cast<size_t>(first), '#');
  append(offsets, first);
  for (const auto& value : values) {
    if (value) bytes.insert(bytes.end(), value->begin(), value->end());
    append(offsets, static_cast<Offset>(bytes.size()));
  }
  column.buffers.insert(column.buffers.end(), {offsets, bytes});
}

// Texts of up to 12 bytes stand in their view, others in one of two buffers.
void lay_out_views(const Values& values, Column& column) {
  Buffer views, bytes[2];
  int32_t turn = 0;
  for (const auto& value : values) {
    const std::string text = value.value_or("");
    append(views, static_cast<int32_t>(text.size()));
    if (text.size() <= 12) {
      char inlined[12] = {};
      text.copy(inlined, sizeof(inlined));
      views.insert(views.end(), inlined, inlined + sizeof(inlined));
      continue;
    }
    Buffer& data = bytes[turn];
    views.insert(views.end(), text.begin(), text.begin() + 4);
    append(views, turn);
    append(views, static_cast<int32_t>(data.size()));
    data.insert(data.end(), text.begin(), text.end());
    turn = 1 - turn;
  }
  Buffer sizes;
  for (const Buffer& data : bytes) append(sizes, static_cast<int64_t>(data.size()));
  column.buffers.insert(column.buffers.end(), {views, bytes[0], bytes[1], sizes});
}

Values read_values(fuzz::Input& input, bool has_nulls) {
  Values values;
  while (!input.empty() && values.size() < kMaxTexts) {
    const uint8_t code = input.byte();
    if (has_nulls && code >= 250) {
      values.push_back(std::nullopt);
      continue;
    }
    values.emplace_back("");
    for (size_t n = code % 20; n > 0; --n) *values.back() += static_cast<char>(input.byte());
  }
  return values;
}

}  // namespace

// Byte 0: format; byte 1: nulls in the column, nulls in the batch, whether there is a batch, what
// validity is written; bytes 2-5: how much the slices leave out; then the texts.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const size_t format = input.below(std::size(kFormats));
  const uint8_t flags = input.byte();
  const bool has_nulls = (flags & 1) != 0, has_null_rows = (flags & 2) != 0;
  const bool is_batch = (flags & 4) != 0, writes_validity = has_nulls || (flags & 8) != 0;
  const size_t column_skip = input.byte(), batch_skip = input.byte(), end_skip = input.byte();
  const uint8_t first_byte = input.byte();
  Values values = read_values(input, has_nulls);

  const size_t skip = std::min(values.size(), column_skip % 20);
  const size_t row_skip = is_batch ? std::min(values.size() - skip, batch_skip % 20) : 0;
  const size_t begin = skip + row_skip;
  const size_t end = values.size() - std::min(values.size() - begin, end_skip % 20);

  Column column;
  column.buffers.push_back(validity(values, writes_validity));
  if (format < 2) {
    lay_out_offsets<int32_t>(values, first_byte, column);
  } else if (format < 4) {
    lay_out_offsets<int64_t>(values, first_byte, column);
  } else {
    lay_out_views(values, column);
  }
  column.finish(kFormats[format], static_cast<int64_t>((is_batch ? values.size() : end) - skip),
                static_cast<int64_t>(skip));

  // Row i of the batch is place skip + i of the column.
  Values rows(values.begin() + static_cast<std::ptrdiff_t>(skip), values.end());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = has_null_rows && (first_byte + i) % 64 == 0 ? std::nullopt : std::optional("");
  }
  Column batch;
  ArrowArray* child = &column.array;
  ArrowSchema* child_schema = &column.schema;
  batch.buffers.push_back(validity(rows, has_null_rows));
  batch.finish("+s", static_cast<int64_t>(end - begin), static_cast<int64_t>(row_skip));
  batch.array.n_children = batch.schema.n_children = 1;
  batch.array.children = &child;
  batch.schema.children = &child_schema;

  std::vector<std::string> expected;
  std::optional<size_t> first_null;
  for (size_t i = begin; i < end && !first_null; ++i) {
    const bool is_null = !values[i] || (is_batch && !rows[i - skip]);
    if (is_null) {
      first_null = i - begin;
    } else {
      expected.push_back(*values[i]);
    }
  }

  std::vector<bpe::Text> texts(1);  // of an earlier array
  const Column& whole = is_batch ? batch : column;
  try {
    bpe::append_texts(whole.schema, whole.array, kFirstIndex, texts);
    REQUIRE(!first_null);
  } catch (const std::invalid_argument& error) {
    REQUIRE(first_null);
    const std::string index = std::to_string(kFirstIndex + *first_null);
    REQUIRE(std::string_view(error.what()).find("index " + index + ";") != std::string_view::npos);
    return 0;
  }
  REQUIRE(texts.size() == 1 + expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const bpe::Text& text = texts[i + 1];
    REQUIRE(text.form == bpe::Text::Form::kUtf8);
    REQUIRE(std::string_view(static_cast<const char*>(text.data), text.length) == expected[i]);
  }
  return 0;
}
