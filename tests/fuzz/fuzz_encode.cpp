// Bytes -> a vocabulary, which need not be one that training yields, and texts in every form. Ids
// against the plain loop of reference.h, from cold and warm caches, one thread and three.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "bpe/batch_encoder.h"
#include "bpe/encoder.h"
#include "input.h"
#include "reference.h"
#include "require.h"

namespace {

using namespace nanochat;
using bpe::Text;

constexpr bpe::Splitter kSplitters[] = {bpe::Splitter::kWhole, bpe::Splitter::kNanochat,
                                        bpe::Splitter::kGpt2, bpe::Splitter::kCl100k};
// Few letters, so that tokens meet each other; the last are not UTF-8 alone.
constexpr std::string_view kAlphabets[] = {"ab", "abc", "a b\n", "\xC3\xA9\xA8z"};
constexpr size_t kMaxTokenBytes = 80;
constexpr size_t kMaxTextBytes = 1500;             // in all; the reference is quadratic
constexpr size_t kLargeBatch = size_t{800} << 10;  // bytes; threads take 256 KB at a time
// What bytes from 0xE0 on stand for where a unit is larger: surrogates, and each length of UTF-8.
constexpr char32_t kUnits[] = {0xD800, 0xDBFF, 0xDC00,  0xDFFF,   0xD83D, 0xDE00, 0xE9,
                               0x17F,  0x4E2D, 0x7FF,   0x800,    0xFFFF, 0xFFFD, 0x3000,
                               0xA0,   0x80,   0x10000, 0x10FFFF, 0x1F600};

std::vector<std::string> read_vocabulary(fuzz::Input& input, std::string_view alphabet) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  std::unordered_set<std::string> known(tokens.begin(), tokens.end());
  const size_t order = input.below(4);
  for (size_t n = input.below(64); n > 0 && !input.empty(); --n) {
    std::string token;
    if (const uint8_t code = input.byte(); code < 160 && tokens.size() > 256) {
      token = tokens[256 + input.byte() % (tokens.size() - 256)];
      token += code < 64 ? std::string(1, alphabet[code % alphabet.size()])
                         : tokens[256 + code % (tokens.size() - 256)];
    } else {
      for (size_t i = 2 + code % 6; i > 0; --i) token += alphabet[input.below(alphabet.size())];
    }
    if (token.size() <= kMaxTokenBytes && known.insert(token).second) tokens.push_back(token);
  }
  if (order == 1) std::reverse(tokens.begin(), tokens.end());
  if (order == 2) std::rotate(tokens.begin(), tokens.begin() + 256, tokens.end());
  if (order == 3) {
    for (size_t i = tokens.size(); i > 1; --i) {
      std::swap(tokens[i - 1], tokens[(input.byte() * 256u + input.byte()) % i]);
    }
  }
  return tokens;
}

struct OwnedText {
  std::vector<char> units;  // exactly as many bytes as the text
  Text::Form form;
  std::string utf8;  // the answer

  [[nodiscard]] Text text() const {
    const size_t unit = form == Text::Form::kUcs4 ? 4 : form == Text::Form::kUcs2 ? 2 : 1;
    return {.data = units.data(), .length = units.size() / unit, .form = form};
  }
};

// UTF-8 of UTF-16 or UTF-32 as it may stand in a Python string: pairs of surrogates are joined, a
// surrogate alone becomes U+FFFD.
std::string transcode(std::u32string units) {
  const auto is_high = [](char32_t c) { return c >= 0xD800 && c < 0xDC00; };
  const auto is_low = [](char32_t c) { return c >= 0xDC00 && c < 0xE000; };
  std::string bytes;
  for (size_t i = 0; i < units.size(); ++i) {
    char32_t c = units[i];
    if (is_high(c) && i + 1 < units.size() && is_low(units[i + 1])) {
      c = 0x10000 + (c - 0xD800) * 0x400 + (units[++i] - 0xDC00);
    } else if (is_high(c) || is_low(c)) {
      c = 0xFFFD;
    }
    bytes += reference::utf8(c);
  }
  return bytes;
}

template <typename Unit>
OwnedText make_wide(const std::string& content, Text::Form form) {
  constexpr char32_t kLargest = sizeof(Unit) == 1 ? 0xFF : sizeof(Unit) == 2 ? 0xFFFF : 0x10FFFF;
  std::vector<Unit> units;
  for (const char byte : content) {
    char32_t c = static_cast<unsigned char>(byte);
    if (sizeof(Unit) > 1 && c >= 0xE0) c = kUnits[(c - 0xE0) % std::size(kUnits)];
    units.push_back(static_cast<Unit>(std::min(c, kLargest)));
  }
  OwnedText it{.units = std::vector<char>(units.size() * sizeof(Unit)),
               .form = form,
               .utf8 = transcode({units.begin(), units.end()})};
  if (!units.empty()) std::memcpy(it.units.data(), units.data(), it.units.size());
  return it;
}

OwnedText make_text(const std::string& content, size_t form) {
  if (form == 1) return make_wide<uint8_t>(content, Text::Form::kLatin1);
  if (form == 2) return make_wide<uint16_t>(content, Text::Form::kUcs2);
  if (form == 3) return make_wide<uint32_t>(content, Text::Form::kUcs4);
  return {.units = fuzz::exact_copy(content), .form = Text::Form::kUtf8, .utf8 = content};
}

std::vector<OwnedText> read_texts(fuzz::Input& input, std::string_view alphabet,
                                  const std::vector<std::string>& tokens) {
  std::vector<OwnedText> texts;
  std::string content;
  size_t form = 0;
  size_t num_bytes = 0;
  while (!input.empty() && num_bytes + content.size() < kMaxTextBytes) {
    const uint8_t code = input.byte();
    if (code < 96) {
      content += alphabet[code % alphabet.size()];
    } else if (code < 160) {
      content += tokens[(code * 256u + input.byte()) % tokens.size()];
    } else if (code < 192) {
      content.append(input.one_of(fuzz::kRunLengths), alphabet[code % alphabet.size()]);
    } else if (code < 224) {
      content += input.one_of(fuzz::kTricky);
    } else if (code < 240) {
      content += static_cast<char>(0xE0 | input.byte());
    } else {
      texts.push_back(make_text(content, form));
      num_bytes += content.size();
      content.clear();
      form = code % 4;
    }
  }
  texts.push_back(make_text(content, form));
  return texts;
}

template <typename Id>
void check_encoders(const std::vector<std::string>& tokens, bpe::Splitter splitter,
                    const std::vector<OwnedText>& texts,
                    const std::vector<std::vector<uint32_t>>& expected, size_t repeats) {
  std::vector<Text> views;
  for (size_t i = 0; i < repeats; ++i) {
    for (const OwnedText& text : texts) views.push_back(text.text());
  }
  const bpe::BatchEncoder<Id> encoder(tokens, splitter);
  for (const int num_threads : {1, 3, 3, 1}) {
    const auto [ids, offsets] = encoder.encode(views, num_threads, [] {});
    REQUIRE(offsets.size() == views.size() + 1 && offsets[0] == 0);
    REQUIRE(offsets.back() == static_cast<int64_t>(ids.size()));
    for (size_t i = 0; i < views.size(); ++i) {
      REQUIRE(std::equal(ids.data() + offsets[i], ids.data() + offsets[i + 1],
                         expected[i % texts.size()].begin(), expected[i % texts.size()].end()));
    }
  }
}

}  // namespace

// Byte 0: splitter, alphabet, size of ids, whether the batch is large; then the vocabulary, then
// the texts.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint8_t flags = input.byte();
  const bpe::Splitter splitter = kSplitters[flags % 4];
  const std::string_view alphabet = kAlphabets[flags / 4 % 4];
  const std::vector<std::string> tokens = read_vocabulary(input, alphabet);
  const std::vector<OwnedText> texts = read_texts(input, alphabet, tokens);

  reference::Ids ids;
  for (const std::string& token : tokens) ids.emplace(token, static_cast<uint32_t>(ids.size()));
  std::vector<std::vector<uint32_t>> expected(texts.size());
  size_t num_bytes = 1;
  for (size_t i = 0; i < texts.size(); ++i) {
    for (const std::string_view piece : reference::split(splitter, texts[i].utf8)) {
      const std::vector<uint32_t> more = reference::encode_piece(ids, piece);
      expected[i].insert(expected[i].end(), more.begin(), more.end());
    }
    num_bytes += texts[i].text().num_bytes();
    std::string decoded;
    for (const uint32_t id : expected[i]) decoded += tokens[id];
    REQUIRE(decoded == texts[i].utf8);
  }
  const size_t repeats = flags >= 224 && num_bytes > 64 ? kLargeBatch / num_bytes : 1;
  if ((flags & 16) != 0) {
    check_encoders<uint16_t>(tokens, splitter, texts, expected, repeats);
  } else {
    check_encoders<uint32_t>(tokens, splitter, texts, expected, repeats);
  }
  return 0;
}
