// Calls at once, and a call that its caller gives up.
#include "bpe/batch_encoder.h"

#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "require.h"
#include "small_vocabulary.h"

namespace {

using namespace nanochat::bpe;

std::string random_words(size_t size) {
  std::mt19937 rng(1);
  std::string text(size, ' ');
  for (char& c : text) c = "abcdab "[rng() % 7];
  return text;
}

bool equal(const EncodedTexts<uint16_t>& a, const EncodedTexts<uint16_t>& b) {
  return a.offsets == b.offsets && std::equal(a.ids.data(), a.ids.data() + a.ids.size(),
                                              b.ids.data(), b.ids.data() + b.ids.size());
}

void test_calls_from_several_threads() {
  const BatchEncoder<uint16_t> encoder(small_vocabulary(), Splitter::kNanochat);
  const std::string words = random_words(200'000);
  const std::vector<Text> texts(8, {words.data(), words.size()});  // several parts
  const auto expected = encoder.encode(texts, 1, [] {});
  std::vector<std::jthread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 2; ++round) {
        REQUIRE(equal(encoder.encode(texts, 2, [] {}), expected));
      }
    });
  }
}

void test_poll_that_throws_ends_the_call() {
  struct GivenUp {};
  const BatchEncoder<uint16_t> encoder(small_vocabulary(), Splitter::kNanochat);
  const std::string words = random_words(1 << 20);
  const Text text{words.data(), words.size()};
  const std::vector<Text> texts(256, text);
  for (const int num_threads : {1, 3}) {
    int num_polls = 0;
    bool is_given_up = false;
    try {
      static_cast<void>(encoder.encode(texts, num_threads, [&] {
        ++num_polls;
        throw GivenUp();
      }));
    } catch (const GivenUp&) {
      is_given_up = true;
    }
    REQUIRE(is_given_up && num_polls == 1);
  }
  const auto once = encoder.encode({&text, 1}, 1, [] {});  // the encoder is as good as before
  const BatchEncoder<uint16_t> fresh(small_vocabulary(), Splitter::kNanochat);
  REQUIRE(equal(once, fresh.encode({&text, 1}, 1, [] {})));
}

}  // namespace

int main() {
  test_calls_from_several_threads();
  test_poll_that_throws_ends_the_call();
}
