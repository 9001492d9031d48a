// What the tokenizer means, written to be read: oracles of the fuzz targets.
//
//   split         a split pattern, run as the regular expression that it is
//   encode_piece  joins the pair with the lowest id until none joins
//   train         counts all pairs afresh for each merge
//
// Nothing is shared with csrc/bpe but the classes of characters, which Python tests compare with
// tiktoken's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bpe/pretokenize.h"
#include "require.h"

namespace nanochat::reference {

// UTF-8.

[[nodiscard]] inline std::string utf8(char32_t c) {
  const auto lead = [c](int bits, int shift) { return static_cast<char>(bits | (c >> shift)); };
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) return {lead(0, 0)};
  if (c < 0x800) return {lead(0xC0, 6), tail(0)};
  if (c < 0x10000) return {lead(0xE0, 12), tail(6), tail(0)};
  return {lead(0xF0, 18), tail(12), tail(6), tail(0)};
}

struct Char {
  char32_t code_point;  // beyond Unicode for a byte that is not UTF-8
  bpe::CharClass cls;
  size_t end;  // offset in the text
};

// The character whose UTF-8 the text continues with, if that is any.
[[nodiscard]] inline std::optional<char32_t> scalar_at(std::string_view text) {
  constexpr unsigned char kLeadBits[] = {0x7F, 0x1F, 0x0F, 0x07};
  for (size_t size = 1; size <= 4 && size <= text.size(); ++size) {
    char32_t c = static_cast<unsigned char>(text[0]) & kLeadBits[size - 1];
    for (size_t i = 1; i < size; ++i) c = c << 6 | (static_cast<unsigned char>(text[i]) & 0x3F);
    const bool is_scalar = c < 0xD800 || (c >= 0xE000 && c <= 0x10FFFF);
    if (is_scalar && utf8(c) == text.substr(0, size)) return c;
  }
  return std::nullopt;
}

[[nodiscard]] inline std::vector<Char> decode(std::string_view text) {
  std::vector<Char> chars;
  for (size_t at = 0; at < text.size();) {
    if (const auto c = scalar_at(text.substr(at))) {
      at += utf8(*c).size();
      chars.push_back({*c, bpe::char_class(*c), at});
    } else {
      at += 1;
      chars.push_back({0x110000, bpe::CharClass::kOther, at});
    }
  }
  return chars;
}

// Regular expressions, as far as split patterns go.

struct Set {
  unsigned classes = 0;  // a bit for each CharClass
  std::u32string members;
  bool is_negated = false, ignores_case = false;

  [[nodiscard]] static char32_t fold(char32_t c) {
    if (c == 0x17F) return U's';  // the long s
    return c >= U'A' && c <= U'Z' ? c + 32 : c;
  }
  [[nodiscard]] bool holds(const Char& c) const {
    const char32_t member = ignores_case ? fold(c.code_point) : c.code_point;
    const bool is_in =
        (classes >> static_cast<int>(c.cls) & 1) != 0 || members.find(member) != members.npos;
    return is_in != is_negated;
  }
};

struct Item {
  enum class Kind { kChars, kNotBefore, kEnd } kind = Kind::kChars;
  Set set{};
  size_t min = 1, max = 1;
  bool is_possessive = false;
};

using Sequence = std::vector<Item>;

class Parser {
 public:
  explicit Parser(std::string_view pattern) : rest_(pattern) {}

  // Up to the end, or to the parenthesis that closes the group. A group is multiplied out.
  [[nodiscard]] std::vector<Sequence> alternatives(bool ignores_case = false) {
    std::vector<Sequence> all, branch{{}};
    while (!rest_.empty() && rest_[0] != ')') {
      if (take("|")) {
        all.insert(all.end(), branch.begin(), branch.end());
        branch = {{}};
      } else if (take("(?i:")) {
        branch = product(branch, group(true));
      } else if (take("(?:")) {
        branch = product(branch, group(ignores_case));
      } else {
        branch = product(branch, {{item(ignores_case)}});
      }
    }
    all.insert(all.end(), branch.begin(), branch.end());
    return all;
  }

 private:
  [[nodiscard]] bool take(std::string_view token) {
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  [[nodiscard]] char take_char() {
    REQUIRE(!rest_.empty());
    const char c = rest_[0];
    rest_.remove_prefix(1);
    return c;
  }

  static std::vector<Sequence> product(const std::vector<Sequence>& heads,
                                       const std::vector<Sequence>& tails) {
    std::vector<Sequence> all;
    for (const Sequence& head : heads) {
      for (const Sequence& tail : tails) {
        all.push_back(head);
        all.back().insert(all.back().end(), tail.begin(), tail.end());
      }
    }
    return all;
  }

  std::vector<Sequence> group(bool ignores_case) {
    std::vector<Sequence> all = alternatives(ignores_case);
    REQUIRE(take(")"));
    return all;
  }

  Item item(bool ignores_case) {
    if (take("$")) return {.kind = Item::Kind::kEnd};
    if (take("(?!")) {
      const Item not_before{.kind = Item::Kind::kNotBefore, .set = set(ignores_case)};
      REQUIRE(take(")"));
      return not_before;
    }
    Item chars{.set = set(ignores_case)};
    if (take("?")) {
      chars.min = 0;
    } else if (take("*")) {
      chars.min = 0;
      chars.max = std::numeric_limits<size_t>::max();
    } else if (take("+")) {
      chars.max = std::numeric_limits<size_t>::max();
    } else if (take("{1,")) {
      chars.max = static_cast<size_t>(take_char() - '0');
      REQUIRE(take("}"));
    } else {
      return chars;
    }
    chars.is_possessive = take("+");
    return chars;
  }

  Set set(bool ignores_case) {
    Set it;
    it.ignores_case = ignores_case;
    if (!take("[")) {
      add_member(it);
      return it;
    }
    it.is_negated = take("^");
    while (!take("]")) add_member(it);
    return it;
  }

  void add_member(Set& it) {
    using enum bpe::CharClass;
    const auto bit = [](bpe::CharClass cls) { return 1u << static_cast<int>(cls); };
    if (take("\\p{L}")) {
      it.classes |= bit(kLetter);
    } else if (take("\\p{N}")) {
      it.classes |= bit(kNumber);
    } else if (take("\\s")) {
      it.classes |= bit(kSpace) | bit(kNewline);
    } else if (take("\\S")) {
      it.classes |= bit(kOther) | bit(kLetter) | bit(kNumber);
    } else if (take("\\r")) {
      it.members += U'\r';
    } else if (take("\\n")) {
      it.members += U'\n';
    } else {
      it.members += static_cast<char32_t>(take_char());
    }
  }

  std::string_view rest_;
};

// The end of the first match of items [item, ...) at `at`, backtracking.
[[nodiscard]] inline std::optional<size_t> match(const Sequence& sequence, size_t item,
                                                 const std::vector<Char>& text, size_t at) {
  if (item == sequence.size()) return at;
  const auto& [kind, set, min, max, is_possessive] = sequence[item];
  if (kind == Item::Kind::kEnd && at != text.size()) return std::nullopt;
  if (kind == Item::Kind::kNotBefore && at != text.size() && set.holds(text[at])) {
    return std::nullopt;
  }
  if (kind != Item::Kind::kChars) return match(sequence, item + 1, text, at);
  size_t most = 0;
  while (most < max && at + most < text.size() && set.holds(text[at + most])) ++most;
  const size_t least = is_possessive ? std::max(min, most) : min;
  for (size_t n = most + 1; n-- > least;) {
    if (const auto end = match(sequence, item + 1, text, at + n)) return end;
  }
  return std::nullopt;
}

[[nodiscard]] inline const std::vector<Sequence>& alternatives_of(bpe::Splitter splitter) {
  static const std::map<bpe::Splitter, std::vector<Sequence>> kAll = {
      {bpe::Splitter::kNanochat, Parser(bpe::kSplitPattern).alternatives()},
      {bpe::Splitter::kGpt4, Parser(bpe::kGpt4Pattern).alternatives()},
      {bpe::Splitter::kGpt2, Parser(bpe::kGpt2Pattern).alternatives()},
      {bpe::Splitter::kCl100k, Parser(bpe::kCl100kPattern).alternatives()},
  };
  return kAll.at(splitter);
}

// Pieces of the text: the matches, one after the other; together they are all of it.
[[nodiscard]] inline std::vector<std::string_view> split(bpe::Splitter splitter,
                                                         std::string_view text) {
  if (splitter == bpe::Splitter::kWhole) {
    return text.empty() ? std::vector<std::string_view>{} : std::vector{text};
  }
  const std::vector<Char> chars = decode(text);
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  for (size_t at = 0; at < chars.size();) {
    std::optional<size_t> end;
    for (const Sequence& sequence : alternatives_of(splitter)) {
      if ((end = match(sequence, 0, chars, at))) break;
    }
    REQUIRE(end && *end > at);
    at = *end;
    pieces.push_back(text.substr(begin, chars[at - 1].end - begin));
    begin = chars[at - 1].end;
  }
  return pieces;
}

// Byte pair encoding.

using Ids = std::unordered_map<std::string, uint32_t>;

[[nodiscard]] inline std::vector<uint32_t> encode_piece(const Ids& ids, std::string_view piece) {
  constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  const auto find = [&](const std::string& bytes) {
    const auto it = ids.find(bytes);
    return it == ids.end() ? kNone : it->second;
  };
  if (const uint32_t id = find(std::string(piece)); id != kNone) return {id};
  std::vector<std::string> tokens;
  for (const char byte : piece) tokens.emplace_back(1, byte);
  std::vector<uint32_t> joins(tokens.size(), kNone);  // of each token with the next one
  const auto update = [&](size_t i) {
    joins[i] = i + 1 < tokens.size() ? find(tokens[i] + tokens[i + 1]) : kNone;
  };
  for (size_t i = 0; i < tokens.size(); ++i) update(i);
  for (;;) {
    const auto lowest = std::min_element(joins.begin(), joins.end());
    if (*lowest == kNone) break;
    const auto at = lowest - joins.begin();
    const auto i = static_cast<size_t>(at);
    tokens[i] += tokens[i + 1];
    tokens.erase(tokens.begin() + at + 1);
    joins.erase(joins.begin() + at + 1);
    update(i);
    if (i > 0) update(i - 1);
  }
  std::vector<uint32_t> result;
  for (const std::string& token : tokens) result.push_back(find(token));
  return result;
}

// The tokens in the order of ids that `pieces` with their counts train.
[[nodiscard]] inline std::vector<std::string> train(const std::map<std::string, int64_t>& pieces,
                                                    size_t vocab_size) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  std::vector<std::pair<std::vector<size_t>, int64_t>> words;
  for (const auto& [bytes, count] : pieces) {
    words.emplace_back();
    for (const char byte : bytes) words.back().first.push_back(static_cast<unsigned char>(byte));
    words.back().second = count;
  }
  while (tokens.size() < vocab_size) {
    std::map<std::pair<size_t, size_t>, int64_t> pairs;  // in the order in which ties go
    for (const auto& [ids, count] : words) {
      for (size_t i = 0; i + 1 < ids.size(); ++i) pairs[{ids[i], ids[i + 1]}] += count;
    }
    if (pairs.empty()) break;
    auto best = pairs.begin();
    for (auto it = pairs.begin(); it != pairs.end(); ++it) {
      if (it->second > best->second) best = it;
    }
    const auto [left, right] = best->first;
    for (auto& [ids, count] : words) {
      std::vector<size_t> merged;
      for (size_t i = 0; i < ids.size(); ++i) {
        const bool is_pair = i + 1 < ids.size() && ids[i] == left && ids[i + 1] == right;
        merged.push_back(is_pair ? tokens.size() : ids[i]);
        if (is_pair) ++i;
      }
      ids = merged;
    }
    tokens.push_back(tokens[left] + tokens[right]);
  }
  return tokens;
}

}  // namespace nanochat::reference
