// A model whose logits are a hash of the tokens that stand in a sequence's pages, read anew for
// every token: one page wrongly shared, copied or overwritten changes what is drawn. It also
// requires of the engine all that model.h says of chunks.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "engine/model.h"
#include "require.h"

namespace nanochat::engine {

class HistoryModel final : public Model {
 public:
  static constexpr int kVocabSize = 32;

  struct Options {
    int num_pages = 1;
    int max_tokens = std::numeric_limits<int>::max();  // of a step
    int context = std::numeric_limits<int>::max();
    int fails_at = -1;  // the forward whose logits are NaN
    std::function<void(int)> before_forward = [](int) {};
  };
  explicit HistoryModel(const Options& options)
      : options_(options), pages_(options.num_pages, Page(kPageTokens, kNothing)) {}

  void forward(std::span<const Chunk> chunks) override {
    options_.before_forward(num_forwards_);
    const bool is_failing = num_forwards_++ == options_.fails_at;
    std::vector<const Chunk*> writers(pages_.size());
    int num_tokens = 0;
    for (const Chunk& chunk : chunks) {
      const int size = static_cast<int>(chunk.tokens.size());
      REQUIRE(size >= 1 && chunk.num_logits >= 0 && chunk.num_logits <= size);
      REQUIRE((chunk.position == 0) == (chunk.previous == -1));
      REQUIRE(chunk.position + size <= options_.context);
      if (chunk.position > 0) REQUIRE(slot(chunk, chunk.position - 1) == chunk.previous);
      for (int i = 0; i < size; ++i) {
        const int32_t token = chunk.tokens[i];
        REQUIRE(token >= 0 && token < kVocabSize);
        slot(chunk, chunk.position + i) = token;
        const Chunk*& writer = writers[chunk.pages[(chunk.position + i) / kPageTokens]];
        REQUIRE(writer == nullptr || writer == &chunk);
        writer = &chunk;
      }
      num_tokens += size;
    }
    REQUIRE(num_tokens >= 1 && num_tokens <= options_.max_tokens);
    logits_.clear();
    for (const Chunk& chunk : chunks) {
      const int end = chunk.position + static_cast<int>(chunk.tokens.size());
      uint64_t history = 0;
      for (int t = 0; t < end; ++t) {
        const Chunk* const writer = writers[chunk.pages[t / kPageTokens]];
        REQUIRE(writer == nullptr || writer == &chunk);
        history = mixed(history, slot(chunk, t));
        if (t < end - chunk.num_logits) continue;
        const int32_t before = t == 0 ? kNothing : slot(chunk, t - 1);
        append_logits(history, mixed(mixed(0, before), slot(chunk, t)), is_failing);
      }
    }
  }

  [[nodiscard]] std::span<const float> logits(int row) override {
    return std::span(logits_).subspan(static_cast<size_t>(row) * kVocabSize, kVocabSize);
  }

  void sample(std::span<const Draw> draws, std::span<Drawn> drawn) override {
    for (size_t i = 0; i < draws.size(); ++i) {
      drawn[i] = engine::sample(logits(draws[i].row), 0, draws[i], scratch_);
    }
  }

  void copy_page(int32_t from, int32_t to) override {
    REQUIRE(from != to);
    pages_.at(to) = pages_.at(from);
  }

  void load(const Tensors&) override {}

  [[nodiscard]] int num_forwards() const { return num_forwards_; }

 private:
  using Page = std::vector<int32_t>;
  static constexpr int32_t kNothing = -1;

  [[nodiscard]] int32_t& slot(const Chunk& chunk, int t) {
    REQUIRE(t / kPageTokens < std::ssize(chunk.pages));
    return pages_.at(chunk.pages[t / kPageTokens])[t % kPageTokens];
  }

  static uint64_t mixed(uint64_t hash, int64_t value) {
    hash = (hash ^ static_cast<uint64_t>(value + 2)) * 0x9E3779B97F4A7C15;
    return hash ^ (hash >> 29);
  }

  // Mostly of the last two tokens, so that text repeats itself and drafts are right now and then;
  // the rest is of all tokens.
  void append_logits(uint64_t history, uint64_t last, bool is_failing) {
    const auto uniform = [](uint64_t hash) { return static_cast<float>(hash >> 40) * 0x1p-24f; };
    for (int v = 0; v < kVocabSize; ++v) {
      const float logit = 6 * uniform(mixed(last, v)) + uniform(mixed(history, v));
      logits_.push_back(is_failing ? std::numeric_limits<float>::quiet_NaN() : logit);
    }
  }

  Options options_;
  std::vector<Page> pages_;
  std::vector<float> logits_;
  SamplerScratch scratch_;
  std::atomic<int> num_forwards_ = 0;
};

}  // namespace nanochat::engine
