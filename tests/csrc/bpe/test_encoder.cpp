// One encoder, a workspace for each thread, texts that nothing readable follows.
#include "bpe/encoder.h"

#include <random>
#include <string>
#include <thread>
#include <vector>

#include "require.h"
#include "small_vocabulary.h"

namespace {

using namespace nanochat::bpe;

std::vector<uint32_t> encode(const Encoder& encoder, EncoderWorkspace<uint32_t>& workspace,
                             const std::string& text) {
  const std::vector<char> exact(text.begin(), text.end());
  IdBuffer<uint32_t> ids;
  encoder.encode({exact.data(), exact.size()}, workspace, ids);
  return {ids.data(), ids.data() + ids.size()};
}

std::vector<std::string> texts() {
  std::mt19937 rng(1);
  std::vector<std::string> all;
  for (int i = 0; i < 60; ++i) {  // pieces on both sides of each length that is treated apart
    all.emplace_back();
    for (size_t n = rng() % 140; n > 0; --n) all.back() += rng() % 60 == 0 ? ' ' : "ab"[rng() % 2];
  }
  return all;
}

void test_threads_share_an_encoder() {
  const Encoder encoder(small_vocabulary(), Splitter::kNanochat);
  const std::vector<std::string> all = texts();
  std::vector<std::vector<uint32_t>> expected;
  for (const std::string& text : all) {
    EncoderWorkspace<uint32_t> cold;
    expected.push_back(encode(encoder, cold, text));
    std::string decoded;
    for (const uint32_t id : expected.back()) decoded += encoder.vocabulary().token(id);
    REQUIRE(decoded == text);
  }
  std::vector<std::jthread> threads;
  for (int thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&] {
      EncoderWorkspace<uint32_t> warm;
      for (int round = 0; round < 2; ++round) {
        for (size_t i = 0; i < all.size(); ++i) {
          REQUIRE(encode(encoder, warm, all[i]) == expected[i]);
        }
      }
    });
  }
}

}  // namespace

int main() {
  test_threads_share_an_encoder();
}
