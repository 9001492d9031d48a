// Units that nothing readable follows, and a buffer that has held a longer text.
#include "bpe/text.h"

#include <cstdint>
#include <string>
#include <vector>

#include "require.h"

namespace {

using namespace nanochat::bpe;

template <typename Unit>
std::string utf8_of(const std::vector<Unit>& units, Text::Form form, std::string& buffer) {
  const Text text{.data = units.data(), .length = units.size(), .form = form};
  return std::string(as_utf8(text, Surrogates::kReplace, buffer));
}

void test_texts_end_where_they_end() {
  std::string buffer;
  for (size_t n : {100, 33, 32, 31, 17, 16, 15, 1, 0}) {  // sixteen units at a time
    const std::string ascii(n, 'x');
    REQUIRE(utf8_of(std::vector<uint8_t>(n, 'x'), Text::Form::kLatin1, buffer) == ascii);
    REQUIRE(utf8_of(std::vector<uint16_t>(n, 'x'), Text::Form::kUcs2, buffer) == ascii);
    REQUIRE(utf8_of(std::vector<uint32_t>(n, 'x'), Text::Form::kUcs4, buffer) == ascii);
    std::vector<uint16_t> units(n, 'x');
    units.push_back(0xD83D);  // half of a pair
    REQUIRE(utf8_of(units, Text::Form::kUcs2, buffer) == ascii + "\xEF\xBF\xBD");
    units.push_back(0xDE00);
    REQUIRE(utf8_of(units, Text::Form::kUcs2, buffer) == ascii + "\xF0\x9F\x98\x80");
  }
}

void test_utf8_stays_in_place() {
  const std::string bytes = "caf\xC3\xA9 \xFF";
  std::string buffer;
  const Text text{.data = bytes.data(), .length = bytes.size()};
  REQUIRE(as_utf8(text, Surrogates::kRefuse, buffer).data() == bytes.data());
}

}  // namespace

int main() {
  test_texts_end_where_they_end();
  test_utf8_stays_in_place();
}
