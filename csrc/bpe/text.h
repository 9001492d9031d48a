// A text as its owner stores it, and its UTF-8.
//
// Python keeps a string in units of 1, 2 or 4 bytes. Reading those in place lets threads turn them
// into UTF-8 without the interpreter, each into a buffer that it uses again.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace nanochat::bpe {

struct Text {
  enum class Form : uint8_t { kUtf8, kLatin1, kUcs2, kUcs4 };  // units of 1, 1, 2 and 4 bytes
  const void* data = nullptr;
  size_t length = 0;  // units
  Form form = Form::kUtf8;

  [[nodiscard]] size_t num_bytes() const {
    return length * (form == Form::kUcs4 ? 4 : form == Form::kUcs2 ? 2 : 1);
  }
};

enum class Surrogates {
  kRefuse,   // any surrogate is an error
  kReplace,  // pairs are joined, each other one becomes U+FFFD
};

struct SurrogateError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// The UTF-8 of the text: in place where it is UTF-8 already, else in `buffer`, until it is used
// again. Throws SurrogateError.
[[nodiscard]] std::string_view as_utf8(const Text& text, Surrogates surrogates,
                                       std::string& buffer);

}  // namespace nanochat::bpe
