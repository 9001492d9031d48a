// Bytes -> a text, as they are or as parts that hurt. Each scanner against its regular expression,
// for views that end anywhere, asked for few pieces at a time.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/pretokenize.h"
#include "input.h"
#include "reference.h"
#include "require.h"

namespace {

using namespace nanochat;

constexpr bpe::Splitter kSplitters[] = {bpe::Splitter::kNanochat, bpe::Splitter::kGpt4,
                                        bpe::Splitter::kGpt2, bpe::Splitter::kCl100k,
                                        bpe::Splitter::kWhole};
constexpr size_t kMaxSize = 2048;
constexpr size_t kNumCuts = 3;

std::vector<std::string_view> split(bpe::Splitter splitter, std::string_view text,
                                    size_t num_ends) {
  std::vector<size_t> ends(num_ends);
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  for (size_t n = num_ends; n == num_ends;) {
    n = bpe::pretokenize(splitter, text, begin, ends);
    REQUIRE(n <= num_ends);
    for (size_t i = 0; i < n; ++i) {
      REQUIRE(begin < ends[i] && ends[i] <= text.size());
      pieces.push_back(text.substr(begin, ends[i] - begin));
      begin = ends[i];
    }
  }
  return pieces;
}

}  // namespace

// Byte 0: raw or tricky; byte 1: how many pieces to ask for; bytes 2-4: where views end.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const bool is_raw = input.below(4) == 0;
  const size_t num_ends = 1 + input.below(40);
  size_t cuts[kNumCuts];
  for (size_t& cut : cuts) cut = input.byte();
  std::string text;
  if (is_raw) {
    while (!input.empty() && text.size() < kMaxSize) text += static_cast<char>(input.byte());
  } else {
    text = fuzz::tricky_text(input, kMaxSize);
  }

  std::vector<size_t> sizes{text.size()};
  for (const size_t cut : cuts) sizes.push_back(text.size() * cut / 256);
  for (const size_t n : sizes) {
    const std::vector<char> exact = fuzz::exact_copy(std::string_view(text).substr(0, n));
    for (const bpe::Splitter splitter : kSplitters) {
      REQUIRE(split(splitter, fuzz::view(exact), num_ends) ==
              reference::split(splitter, fuzz::view(exact)));
    }
  }
  return 0;
}
