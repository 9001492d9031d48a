// Views that end inside of a character, weights beyond 2^32, threads: exits 1 at the first failure.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/merge_loop.h"
#include "bpe/pretokenize.h"
#include "bpe/trainer.h"

namespace {

using namespace nanochat::bpe;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::exit(1);
}

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
      const std::unique_ptr<char[]> exact(new char[size]);  // what lies behind it, sanitizers guard
      text.copy(exact.get(), size);
      for (const Splitter splitter : kSplitters) {
        const auto ends = ends_of(splitter, {exact.get(), size});
        require(ends == ends_of(splitter, std::string_view(text).substr(0, size)),
                "pieces depend on the view");
        require(size == 0 ? ends.empty() : ends.back() == size, "pieces cover the text");
      }
    }
  }
}

void test_counts_are_64_bit() {
  constexpr int64_t kMany = int64_t{1} << 40;
  Training training;
  const auto merges =
      learn_merges({{"ab", kMany}, {"cd", kMany + 1}, {"ef", 3}}, 3, training);
  require(
      merges.size() == 3 && merges[0].left == 'c' && merges[1].left == 'a' && merges[2].left == 'e',
      "merges by falling count");
}

void test_threads_do_not_change_the_tokens() {
  std::mt19937 rng(2);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<std::string> texts;
    for (int i = 0; i < 20; ++i) texts.push_back(random_text(rng));
    std::vector<Text> views;
    for (const std::string& text : texts) views.push_back({text.data(), text.size()});
    Training training;
    Trainer one(Splitter::kNanochat, 1, training);
    Trainer three(Splitter::kNanochat, 3, training);
    one.add(views);
    three.add(std::span(views).first(7));
    three.add(std::span(views).subspan(7));
    require(one.train(290) == three.train(290), "one thread and three agree");
  }
}

}  // namespace

int main() {
  test_nothing_past_the_end_is_read();
  test_counts_are_64_bit();
  test_threads_do_not_change_the_tokens();
}
