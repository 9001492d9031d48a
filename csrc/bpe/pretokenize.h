// Splits text into the pieces that merges never cross.
//
// The same pieces as tiktoken finds with the pattern kSplitPattern (Unicode 16.0 classes), from a
// scanner written by hand: what a piece is depends on five classes of characters only, and on at
// most one character to the right. Linear in the text for any input, no stack, about 0.5 GB/s on
// one core, where a backtracking regex engine does 0.02.
//
// Bytes that are not UTF-8 are legal: each is one character of class kOther.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace nanochat::bpe {

inline constexpr std::string_view kSplitPattern =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*)"
    R"(|\s*[\r\n]|\s+(?!\S)|\s+)";
inline constexpr std::string_view kUnicodeVersion = "16.0";

enum class CharClass : uint8_t {
  kOther,    // the rest: punctuation, symbols, marks, controls, invalid bytes
  kLetter,   // \p{L}
  kNumber,   // \p{N}
  kSpace,    // White_Space without CR and LF
  kNewline,  // CR, LF
  kEnd,      // no character: the text ended
};

[[nodiscard]] CharClass char_class(char32_t code_point);

// Writes the end offsets of the next pieces of `text` from offset `begin` on; returns how many.
// Fewer than ends.size() means that the text is finished.
[[nodiscard]] size_t pretokenize(std::string_view text, size_t begin, std::span<size_t> ends);

}  // namespace nanochat::bpe
