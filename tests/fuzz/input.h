// What targets make of the bytes of an input: numbers, texts that hurt, and copies with nothing
// readable behind them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nanochat::fuzz {

// Bytes in turn; zeros once they are used up.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(data, size) {}

  [[nodiscard]] bool empty() const { return rest_.empty(); }
  [[nodiscard]] uint8_t byte() {
    if (rest_.empty()) return 0;
    const uint8_t first = rest_.front();
    rest_ = rest_.subspan(1);
    return first;
  }
  [[nodiscard]] size_t below(size_t n) { return byte() % n; }
  template <typename T, size_t n>
  [[nodiscard]] const T& one_of(const T (&values)[n]) {
    return values[below(n)];
  }

 private:
  std::span<const uint8_t> rest_;
};

// Every kind of character that a split pattern tells apart, in every length of UTF-8, and bytes
// that are none.
inline constexpr std::string_view kTricky[] = {
    "a",
    "Z",
    "'",
    " ",
    "\n",
    "\r",
    "1",
    ".",
    "s",
    "S",
    "ll",
    "VE",
    "'re",
    "T",
    "d",
    "M",
    "abcdefghi",
    "xylophone",
    "\t",
    "\x0B",
    "\xC2\x85",
    "\xC2\xA0",
    "\xE3\x80\x80",
    "\xE2\x80\xA8",
    "  ",
    "\r\n",
    "42",
    "\xC2\xB2",
    "\xE2\x85\xA7",
    "\xF0\x9D\x9F\x98",
    "_",
    "!?",
    "\x1C",
    "\x7F",
    "\xCC\x81",
    "\xE2\x80\x8B",
    "\xC3\xA9",
    "\xC5\xBF",
    "\xC4\xB0",
    "\xE2\x84\xAA",
    "\xE4\xB8\xAD",
    "\xED\x95\x9C",
    "\xF0\xA0\x80\x80",
    "\xF0\x9F\x98\x80",
    "\xEF\xBF\xBD",
    "\xF4\x8F\xBF\xBF",
    "\xED\xA0\x80",
    "\xC0\xAF",
    "\xE0\x80\xAF",
    "\xF0\x80\x80\xAF",
    "\xF4\x90\x80\x80",
    "\xE4\xB8",
    "\xF0\x9F\x98",
    "\x80",
    "\xFF",
};

// Lengths at which some representation of a piece ends: 15 bytes in a key, 46 in the long cache,
// 16, 32 and 64 in the mergers and the block of the scanner.
inline constexpr size_t kRunLengths[] = {2,  7,  8,  14, 15, 16, 17, 31, 32,  33,
                                         45, 46, 47, 62, 63, 64, 65, 66, 127, 300};

// A text in which a byte stands for a part of kTricky, sometimes for a run of one.
inline std::string tricky_text(Input& input, size_t max_size) {
  std::string text;
  while (!input.empty() && text.size() < max_size) {
    const uint8_t code = input.byte();
    size_t times = 1;
    if (code >= 240) times = input.one_of(kRunLengths);
    const std::string_view part =
        code >= 240 ? input.one_of(kTricky) : kTricky[code % std::size(kTricky)];
    for (; times > 0; --times) text += part;
  }
  return text;
}

// On the heap and no longer than it has to be, so that AddressSanitizer sees a read past the end.
[[nodiscard]] inline std::vector<char> exact_copy(std::string_view text) {
  return {text.begin(), text.end()};
}

[[nodiscard]] inline std::string_view view(const std::vector<char>& text) {
  return {text.data(), text.size()};
}

}  // namespace nanochat::fuzz
