// Bytes -> a few short texts over few letters, so that counts tie, each seen up to a thousand
// times. The trainer, in batches and on several threads, against a count of all pairs for each
// merge.
#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bpe/trainer.h"
#include "input.h"
#include "reference.h"
#include "require.h"

namespace {

using namespace nanochat;

constexpr bpe::Splitter kSplitters[] = {bpe::Splitter::kNanochat, bpe::Splitter::kWhole,
                                        bpe::Splitter::kGpt2, bpe::Splitter::kGpt4};
constexpr std::string_view kAlphabets[] = {"ab", "ab ", "abcd  ", "xyz 1'\n\xC3\xA9"};
constexpr size_t kRepeats[] = {1, 1, 1, 1, 2, 3, 100, 1000};
constexpr size_t kMaxBytes = 400;
constexpr int64_t kMaxVocabSize = 400;
// Merges of thousands of positions are what threads share.
constexpr size_t kManyBytes = 20'000;
constexpr uint8_t kNoise[] = {0, 0, 1, 8, 255};  // of 256 bytes
constexpr int64_t kFewMerges = 24;               // the reference counts all bytes again for each

struct Document {
  std::string text;
  size_t repeats = 1;
};

std::vector<Document> read_documents(fuzz::Input& input, std::string_view alphabet) {
  std::vector<Document> documents(1);
  for (size_t num_bytes = 0; !input.empty() && num_bytes < kMaxBytes; ++num_bytes) {
    const uint8_t code = input.byte();
    std::string& text = documents.back().text;
    if (code < 224) {
      text += alphabet[code % alphabet.size()];
    } else if (code < 232) {
      const size_t n = input.one_of(fuzz::kRunLengths);
      text.append(n, alphabet[code % alphabet.size()]);
      num_bytes += n;
    } else {
      documents.push_back({.text = {}, .repeats = kRepeats[code % std::size(kRepeats)]});
    }
  }
  return documents;
}

// Many bytes: a unit over and over, so that each merge decides about all the later ones, with noise
// between from time to time, in texts of up to a length.
std::vector<Document> read_repetition(fuzz::Input& input, std::string_view alphabet) {
  const size_t max_size = size_t{1} << input.below(16);
  const uint8_t noise = input.one_of(kNoise);
  uint32_t seed = input.byte();
  std::string unit;
  for (size_t n = 1 + input.below(4); n > 0; --n) unit += alphabet[input.below(alphabet.size())];
  std::vector<Document> documents(1);
  for (size_t i = 0; i < kManyBytes; ++i) {
    seed = seed * 1664525u + 1013904223u;
    const bool is_noise = (seed >> 24) < noise;
    std::string& text = documents.back().text;
    text += is_noise ? alphabet[(seed >> 16) % alphabet.size()] : unit[i % unit.size()];
    if (text.size() == max_size) documents.emplace_back();
  }
  return documents;
}

}  // namespace

// Byte 0: splitter, alphabet, whether the texts are read or repeat a unit; byte 1: vocabulary; byte
// 2: how many batches; then the texts.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint8_t flags = input.byte();
  const bpe::Splitter splitter = kSplitters[flags % 4];
  const std::string_view alphabet = kAlphabets[flags / 4 % 4];
  const bool is_repetition = flags >= 240;
  const int64_t max_merges = is_repetition ? kFewMerges : kMaxVocabSize - 256;
  const int64_t vocab_size = 256 + input.byte() % (max_merges + 1);
  const size_t num_batches = 1 + input.below(6);
  const std::vector<Document> documents =
      is_repetition ? read_repetition(input, alphabet) : read_documents(input, alphabet);

  std::vector<bpe::Text> texts;
  std::map<std::string, int64_t> pieces;
  int64_t num_bytes = 0;
  for (const auto& [text, repeats] : documents) {
    texts.insert(texts.end(), repeats, {.data = text.data(), .length = text.size()});
    num_bytes += static_cast<int64_t>(text.size() * repeats);
    for (const std::string_view piece : reference::split(splitter, text)) {
      pieces[std::string(piece)] += static_cast<int64_t>(repeats);
    }
  }
  const size_t batch = texts.size() / num_batches + 1;
  const auto expected = reference::train(pieces, static_cast<size_t>(vocab_size));

  for (const int num_threads : {1, 2, 5}) {
    bpe::Training training;
    bpe::Trainer trainer(splitter, num_threads, training);
    for (size_t begin = 0; begin < texts.size(); begin += batch) {
      trainer.add(std::span(texts).subspan(begin, std::min(batch, texts.size() - begin)));
    }
    REQUIRE(training.num_bytes == num_bytes);
    REQUIRE(trainer.train(vocab_size) == expected);
    REQUIRE(training.num_merges == static_cast<int64_t>(expected.size()) - 256);
  }
  return 0;
}
