#include "bpe/text.h"

namespace nanochat::bpe {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

bool is_surrogate(char32_t c) {
  return c >= 0xD800 && c < 0xE000;
}

char* append(char32_t c, char* out) {
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) {
    *out++ = static_cast<char>(c);
  } else if (c < 0x800) {
    *out++ = static_cast<char>(0xC0 | c >> 6);
    *out++ = tail(0);
  } else if (c < 0x10000) {
    *out++ = static_cast<char>(0xE0 | c >> 12);
    *out++ = tail(6);
    *out++ = tail(0);
  } else {
    *out++ = static_cast<char>(0xF0 | c >> 18);
    *out++ = tail(12);
    *out++ = tail(6);
    *out++ = tail(0);
  }
  return out;
}

template <typename Unit>
bool all_ascii(const Unit* sixteen) {
  Unit bits = 0;
  for (size_t k = 0; k < 16; ++k) bits |= sixteen[k];
  return bits < 0x80;
}

template <typename Unit>
std::string_view transcode(const Unit* units, size_t length, Surrogates surrogates,
                           std::string& buffer) {
  constexpr size_t kMaxBytes = sizeof(Unit) == 1 ? 2 : sizeof(Unit) == 2 ? 3 : 4;
  if (buffer.size() < length * kMaxBytes) buffer.resize(length * kMaxBytes);
  char* out = buffer.data();
  for (size_t i = 0; i < length;) {
    // Most text is ASCII for long stretches, sixteen units at a time.
    for (; i + 16 <= length && all_ascii(units + i); i += 16) {
      for (size_t k = 0; k < 16; ++k) out[k] = static_cast<char>(units[i + k]);
      out += 16;
    }
    if (i == length) break;
    char32_t c = units[i++];
    if (sizeof(Unit) > 1 && is_surrogate(c)) {
      if (surrogates == Surrogates::kRefuse) throw SurrogateError("a lone surrogate is not text");
      const char32_t next = i < length ? static_cast<char32_t>(units[i]) : 0;
      if (c < 0xDC00 && is_surrogate(next) && next >= 0xDC00) {
        c = 0x10000 + ((c - 0xD800) << 10) + (next - 0xDC00);
        ++i;
      } else {
        c = kReplacement;
      }
    }
    out = append(c, out);
  }
  return {buffer.data(), static_cast<size_t>(out - buffer.data())};
}

}  // namespace

std::string_view as_utf8(const Text& text, Surrogates surrogates, std::string& buffer) {
  switch (text.form) {
    case Text::Form::kUtf8:
      break;
    case Text::Form::kLatin1:
      return transcode(static_cast<const uint8_t*>(text.data), text.length, surrogates, buffer);
    case Text::Form::kUcs2:
      return transcode(static_cast<const uint16_t*>(text.data), text.length, surrogates, buffer);
    case Text::Form::kUcs4:
      return transcode(static_cast<const uint32_t*>(text.data), text.length, surrogates, buffer);
  }
  return {static_cast<const char*>(text.data), text.length};
}

}  // namespace nanochat::bpe
