#include "bpe/pretokenize.h"

#include <array>
#include <bit>
#include <cstring>

#include "bpe/unicode_ranges.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace nanochat::bpe {
namespace {

using Byte = unsigned char;

// Two stages: a code point's block of 256, then its place there. Blocks of one class share a table.
struct ClassTable {
  static constexpr size_t kBlockSize = 256;
  static constexpr size_t kNumBlocks = 0x110000 / kBlockSize;
  static constexpr size_t kMaxDistinct = 256;
  std::array<uint8_t, kNumBlocks> block_of{};
  std::array<std::array<CharClass, kBlockSize>, kMaxDistinct> blocks{};

  [[nodiscard]] constexpr CharClass operator[](char32_t c) const {
    return blocks[block_of[c / kBlockSize]][c % kBlockSize];
  }
};

consteval ClassTable make_class_table() {
  ClassTable table;  // block 0: all kOther
  table.blocks[1].fill(CharClass::kLetter);
  size_t num_blocks = 2;
  const auto assign = [&](const CodePointRange& range, CharClass value) {
    for (size_t c = range.first; c <= range.last;) {
      const size_t block = c / ClassTable::kBlockSize;
      const size_t block_end = (block + 1) * ClassTable::kBlockSize;
      if (value == CharClass::kLetter && c % ClassTable::kBlockSize == 0 &&
          range.last + 1 >= block_end) {
        table.block_of[block] = 1;
        c = block_end;
        continue;
      }
      if (table.block_of[block] == 0) table.block_of[block] = static_cast<uint8_t>(num_blocks++);
      for (; c <= range.last && c < block_end; ++c) {
        table.blocks[table.block_of[block]][c % ClassTable::kBlockSize] = value;
      }
    }
  };
  for (const auto& range : kLetterRanges) assign(range, CharClass::kLetter);
  for (const auto& range : kNumberRanges) assign(range, CharClass::kNumber);
  for (const auto& range : kWhiteSpaceRanges) assign(range, CharClass::kSpace);
  assign({'\n', '\n'}, CharClass::kNewline);
  assign({'\r', '\r'}, CharClass::kNewline);
  return table;
}

constexpr ClassTable kClasses = make_class_table();

struct Char {
  CharClass cls;
  uint8_t size;  // bytes
};

// The character of two or more bytes at p < end, by the well-formed sequences of Unicode table 3-7.
Char multibyte_at(const Byte* p, const Byte* end) {
  constexpr Char kInvalid{CharClass::kOther, 1};
  const auto tail = [&](int i) { return end - p > i && (p[i] & 0xC0) == 0x80; };
  const auto bits = [&](int i) { return static_cast<char32_t>(p[i] & 0x3F); };
  const Byte lead = p[0];
  if (lead < 0xC2 || !tail(1)) return kInvalid;
  if (lead < 0xE0) return {kClasses[((lead & 0x1Fu) << 6) | bits(1)], 2};
  if (!tail(2)) return kInvalid;
  if (lead < 0xF0) {
    const char32_t c = ((lead & 0x0Fu) << 12) | (bits(1) << 6) | bits(2);
    if (c < 0x800 || (c >= 0xD800 && c < 0xE000)) return kInvalid;  // overlong, surrogate
    return {kClasses[c], 3};
  }
  if (lead > 0xF4 || !tail(3)) return kInvalid;
  const char32_t c = ((lead & 0x07u) << 18) | (bits(1) << 12) | (bits(2) << 6) | bits(3);
  if (c < 0x10000 || c > 0x10FFFF) return kInvalid;
  return {kClasses[c], 4};
}

[[gnu::always_inline]] inline Char char_at(const Byte* p, const Byte* end) {
  if (p == end) return {CharClass::kEnd, 0};
  if (*p < 0x80) return {kClasses[*p], 1};
  return multibyte_at(p, end);
}

inline const Byte* skip(const Byte* p, const Byte* end, CharClass cls) {
  for (Char c = char_at(p, end); c.cls == cls; c = char_at(p, end)) p += c.size;
  return p;
}

// Which of 64 bytes are ASCII letters, a bit for each.
inline uint64_t ascii_letters(const Byte* p) {
#ifdef __SSE2__
  const auto sixteen = [p](int i) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i));
    const __m128i lower = _mm_or_si128(x, _mm_set1_epi8(0x20));
    // 'a' becomes the least signed byte, so that one comparison tells.
    const __m128i from_a = _mm_add_epi8(lower, _mm_set1_epi8(static_cast<char>(0x80 - 'a')));
    const __m128i is_letter = _mm_cmplt_epi8(from_a, _mm_set1_epi8(static_cast<char>(0x80 + 26)));
    return static_cast<uint64_t>(_mm_movemask_epi8(is_letter)) << i;
  };
  return sixteen(0) | sixteen(16) | sixteen(32) | sixteen(48);
#else
  uint64_t letters = 0;
  for (int i = 0; i < 64; ++i) {
    letters |= static_cast<uint64_t>(static_cast<Byte>((p[i] | 0x20) - 'a') < 26) << i;
  }
  return letters;
#endif
}

// 64 bytes of text, zeros behind its end.
struct Block {
  const Byte* begin = nullptr;
  uint64_t letters = 0;

  void move_to(const Byte* p, const Byte* end) {
    begin = p;
    if (end - p >= 64) {
      letters = ascii_letters(p);
    } else {
      Byte rest[64] = {};
      if (p != end) std::memcpy(rest, p, static_cast<size_t>(end - p));
      letters = ascii_letters(rest);
    }
  }
};

// What a piece may begin with so that ASCII letters behind it are its rest.
enum class Head : uint8_t {
  kLetter,  // itself an ASCII letter
  kJoins,   // a character that belongs to the letters behind it
  kNone,
};

using Heads = std::array<Head, 256>;

// The end of the piece at p if it is letters, or one character and letters, and ASCII decides;
// else null. What letters join is most of any text, so this is the loop that the time is spent in;
// from one piece to the next it depends on a shift and a count of bits alone.
inline const Byte* end_of_letters(const Byte* p, const Byte* end, const Heads& heads,
                                  Block& block) {
  const Head head = heads[*p];
  if (head == Head::kNone) return nullptr;
  for (;;) {
    const auto begin = static_cast<uint64_t>(p - block.begin) + 1;  // of the letters
    if (begin < 64) {
      const auto size = static_cast<uint64_t>(std::countr_one(block.letters >> begin));
      if (begin + size < 64) {
        const Byte* const q = block.begin + begin + size;
        const bool is_piece = head == Head::kLetter || size > 0;
        return is_piece && (q == end || *q < 0x80) ? q : nullptr;
      }
    }
    if (p == block.begin) return nullptr;  // longer than a block
    block.move_to(p, end);
  }
}

inline const Byte* skip_letters(const Byte* p, const Byte* end) {
  return skip(p, end, CharClass::kLetter);
}

enum class Case { kKept, kIgnored };

// Bytes of s, d, m, t, ll, ve, re after an apostrophe, else 0. Where case is ignored, the long s,
// U+017F, is an s: Unicode's simple folding says so.
template <Case kCase>
inline size_t contraction_size(const Byte* p, const Byte* end) {
  if (p == end) return 0;
  const auto lower = [&](int i) {
    return static_cast<char>(kCase == Case::kIgnored ? p[i] | 0x20 : p[i]);
  };
  const char first = lower(0);
  if (first == 's' || first == 'd' || first == 'm' || first == 't') return 1;
  if (end - p < 2) return 0;
  if (kCase == Case::kIgnored && p[0] == 0xC5 && p[1] == 0xBF) return 2;
  const char second = lower(1);
  const bool is_pair = (first == 'l' && second == 'l') || (first == 'v' && second == 'e') ||
                       (first == 'r' && second == 'e');
  return is_pair ? 2 : 0;
}

// A run of white space ahead: where it ends, where its last character begins, and where its last
// newline ends (null without one).
struct WhiteSpace {
  const Byte* end;
  const Byte* last;
  const Byte* after_newline;
};

// Indentation makes for long runs of U+0020: eight at a time.
inline const Byte* skip_blanks(const Byte* p, const Byte* end) {
  constexpr uint64_t kBlanks = 0x2020202020202020;
  for (uint64_t x; end - p >= 8; p += 8) {
    std::memcpy(&x, p, 8);
    if (x != kBlanks) return p + std::countr_zero(x ^ kBlanks) / 8;
  }
  while (p != end && *p == ' ') ++p;
  return p;
}

inline WhiteSpace white_space_at(const Byte* p, const Byte* end) {
  WhiteSpace run{p, p, nullptr};
  for (;;) {
    if (const Byte* const q = skip_blanks(p, end); q != p) {
      run.last = q - 1;
      p = q;
    }
    const Char c = char_at(p, end);
    if (c.cls != CharClass::kSpace && c.cls != CharClass::kNewline) break;
    run.last = p;
    p += c.size;
    if (c.cls == CharClass::kNewline) run.after_newline = p;
  }
  run.end = p;
  return run;
}

// All of the run at the end of the text, else all but its last character, which belongs to what
// follows unless it stands alone.
inline const Byte* without_last(const WhiteSpace& run, const Byte* begin, const Byte* end) {
  return run.end == end || run.last == begin ? run.end : run.last;
}

template <typename Joins>
consteval Heads make_heads(Joins&& joins) {
  Heads heads;
  heads.fill(Head::kNone);
  for (size_t c = 0; c < 0x80; ++c) {
    if (kClasses[static_cast<char32_t>(c)] == CharClass::kLetter) {
      heads[c] = Head::kLetter;
    } else if (joins(static_cast<char>(c), kClasses[static_cast<char32_t>(c)])) {
      heads[c] = Head::kJoins;
    }
  }
  return heads;
}

// GPT-4's pattern and its relatives.
template <int kMaxDigits, bool kTailIsWhole>
struct Gpt4 {
  static constexpr Heads kHeads = make_heads([](char c, CharClass cls) {
    return c != '\'' && (cls == CharClass::kSpace || cls == CharClass::kOther);
  });

  static const Byte* end_of_white_space(const Byte* begin, const Byte* end) {
    const WhiteSpace run = white_space_at(begin, end);
    if (kTailIsWhole && run.end == end) return end;
    return run.after_newline != nullptr ? run.after_newline : without_last(run, begin, end);
  }

  static const Byte* end_of_punctuation(const Byte* p, const Byte* end) {
    return skip(skip(p, end, CharClass::kOther), end, CharClass::kNewline);
  }

  static const Byte* end_of_piece(const Byte* p, const Byte* end) {
    const Char c = char_at(p, end);
    const Byte* q = p + c.size;
    switch (c.cls) {
      case CharClass::kLetter:
        return skip_letters(q, end);
      case CharClass::kNumber: {
        for (int digits = 1; digits < kMaxDigits; ++digits) {
          const Char next = char_at(q, end);
          if (next.cls != CharClass::kNumber) break;
          q += next.size;
        }
        return q;
      }
      case CharClass::kOther: {
        const size_t contraction = *p == '\'' ? contraction_size<Case::kIgnored>(q, end) : 0;
        if (contraction != 0) return q + contraction;
        const Byte* letters = skip_letters(q, end);
        return letters != q ? letters : end_of_punctuation(q, end);
      }
      case CharClass::kSpace: {
        const Byte* letters = skip_letters(q, end);
        if (letters != q) return letters;
        if (*p == ' ' && char_at(q, end).cls == CharClass::kOther) {
          return end_of_punctuation(q, end);
        }
        return end_of_white_space(p, end);
      }
      default:
        return end_of_white_space(p, end);
    }
  }
};

// Here newlines are white space like any other, and only U+0020 joins what follows.
struct Gpt2 {
  static constexpr Heads kHeads = make_heads([](char c, CharClass) { return c == ' '; });

  static const Byte* end_of_piece(const Byte* p, const Byte* end) {
    const Byte* q = *p == ' ' ? p + 1 : p;
    switch (char_at(q, end).cls) {
      case CharClass::kLetter:
        return skip_letters(q, end);
      case CharClass::kNumber:
        return skip(q, end, CharClass::kNumber);
      case CharClass::kOther: {
        const size_t contraction = *p == '\'' ? contraction_size<Case::kKept>(p + 1, end) : 0;
        return contraction != 0 ? p + 1 + contraction : skip(q, end, CharClass::kOther);
      }
      default:
        return without_last(white_space_at(p, end), p, end);
    }
  }
};

struct Whole {
  static constexpr Heads kHeads = [] {
    Heads heads;
    heads.fill(Head::kNone);
    return heads;
  }();

  static const Byte* end_of_piece(const Byte*, const Byte* end) { return end; }
};

template <typename Rule>
size_t split(std::string_view text, size_t begin, std::span<size_t> ends) {
  const auto* const base = reinterpret_cast<const Byte*>(text.data());
  const Byte* const end = base + text.size();
  const Byte* p = base + begin;
  Block block;
  block.move_to(p, end);
  size_t n = 0;
  while (n < ends.size() && p != end) {
    const Byte* const quick = end_of_letters(p, end, Rule::kHeads, block);
    p = quick != nullptr ? quick : Rule::end_of_piece(p, end);
    ends[n++] = static_cast<size_t>(p - base);
  }
  return n;
}

}  // namespace

CharClass char_class(char32_t code_point) {
  return kClasses[code_point];
}

std::optional<Splitter> splitter_for(std::string_view pattern) {
  if (pattern == kSplitPattern) return Splitter::kNanochat;
  if (pattern == kGpt4Pattern) return Splitter::kGpt4;
  if (pattern == kGpt2Pattern) return Splitter::kGpt2;
  if (pattern == kCl100kPattern) return Splitter::kCl100k;
  return std::nullopt;
}

size_t pretokenize(Splitter splitter, std::string_view text, size_t begin, std::span<size_t> ends) {
  switch (splitter) {
    case Splitter::kNanochat:
      return split<Gpt4<2, false>>(text, begin, ends);
    case Splitter::kGpt4:
      return split<Gpt4<3, false>>(text, begin, ends);
    case Splitter::kGpt2:
      return split<Gpt2>(text, begin, ends);
    case Splitter::kCl100k:
      return split<Gpt4<3, true>>(text, begin, ends);
    case Splitter::kWhole:
      return split<Whole>(text, begin, ends);
  }
  return 0;
}

}  // namespace nanochat::bpe
