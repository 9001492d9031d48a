// Views that end inside of a character, of a block of 64 bytes, of a larger buffer.
#include "bpe/pretokenize.h"

#include <array>
#include <cstddef>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "require.h"

namespace {

using namespace nanochat::bpe;

constexpr Splitter kSplitters[] = {Splitter::kNanochat, Splitter::kGpt4, Splitter::kGpt2,
                                   Splitter::kCl100k, Splitter::kWhole};

std::vector<size_t> ends_of(Splitter splitter, std::string_view text) {
  std::vector<size_t> all;
  std::array<size_t, 3> ends;  // odd and small, so that most texts need several calls
  for (size_t n = ends.size(); n == ends.size();) {
    n = pretokenize(splitter, text, all.empty() ? 0 : all.back(), ends);
    all.insert(all.end(), ends.begin(), ends.begin() + static_cast<std::ptrdiff_t>(n));
  }
  return all;
}

std::string random_text(std::mt19937& rng) {
  static constexpr std::string_view kParts[] = {"a",
                                                "abcdefghi",
                                                "'",
                                                "s",
                                                "ve",
                                                " ",
                                                "\n",
                                                "1",
                                                ".",
                                                "\xC2\xA0",
                                                "\xC5\xBF",
                                                "\xE4\xB8\xAD",
                                                "\xF0\x9F\x98\x80",
                                                "\xED\xA0\x80",
                                                "\xFF"};
  std::string text;
  for (size_t n = rng() % 16; n > 0; --n) text += kParts[rng() % std::size(kParts)];
  return text;
}

void test_nothing_past_the_end_is_read() {
  std::mt19937 rng(1);
  for (int trial = 0; trial < 3000; ++trial) {
    const std::string text = random_text(rng);
    for (size_t size = 0; size <= text.size(); ++size) {
      // What lies behind it, sanitizers guard.
      const std::vector<char> exact(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(size));
      for (const Splitter splitter : kSplitters) {
        const auto ends = ends_of(splitter, {exact.data(), size});
        REQUIRE(ends == ends_of(splitter, std::string_view(text).substr(0, size)));
        REQUIRE(size == 0 ? ends.empty() : ends.back() == size);
      }
    }
  }
}

void test_whole_texts_are_one_piece() {
  std::mt19937 rng(2);
  for (int trial = 0; trial < 1000; ++trial) {
    const std::string text = "it's " + random_text(rng);
    REQUIRE(ends_of(Splitter::kWhole, text) == std::vector{text.size()});
  }
}

}  // namespace

int main() {
  test_nothing_past_the_end_is_read();
  test_whole_texts_are_one_piece();
}
