// The model on the processor: against the plain one, and against itself for every way to cut the
// same tokens into steps.
#include "engine/cpu/cpu_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/plain_gpt.h"
#include "engine/tiny_model.h"
#include "require.h"

namespace {

using namespace nanochat;
using namespace nanochat::engine;

constexpr int kNumPages = 24;
constexpr int kNumTokens = 150;  // two pages and a piece of a third

// A sequence on its way through a model, and the logits that were asked for.
struct Sequence {
  std::vector<int32_t> tokens;
  std::vector<int32_t> pages;
  int num_done = 0;
  std::vector<std::vector<float>> logits = std::vector<std::vector<float>>(tokens.size());
};

struct Advance {
  Sequence* sequence;
  int num_tokens, num_logits;
};

void step(Model& model, const std::vector<Advance>& advances) {
  std::vector<Chunk> chunks;
  for (const auto& [it, num_tokens, num_logits] : advances) {
    chunks.push_back({.tokens = std::span(it->tokens).subspan(it->num_done, num_tokens),
                      .position = it->num_done,
                      .previous = it->num_done == 0 ? -1 : it->tokens[it->num_done - 1],
                      .pages = it->pages,
                      .num_logits = num_logits});
  }
  model.forward(chunks);
  int row = 0;
  for (const auto& [it, num_tokens, num_logits] : advances) {
    it->num_done += num_tokens;
    for (int i = it->num_done - num_logits; i < it->num_done; ++i) {
      const std::span<const float> logits = model.logits(row++);
      it->logits[i].assign(logits.begin(), logits.end());
    }
  }
}

// All logits, computed in chunks of so many tokens.
Sequence computed(Model& model, const std::vector<int32_t>& tokens,
                  const std::vector<int32_t>& pages, int chunk) {
  Sequence sequence{.tokens = tokens, .pages = pages};
  const int size = static_cast<int>(tokens.size());
  while (sequence.num_done < size) {
    const int num_tokens = std::min(chunk, size - sequence.num_done);
    step(model, {{&sequence, num_tokens, num_tokens}});
  }
  return sequence;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void require_same(const Sequence& got, const Sequence& want) {
  REQUIRE(got.num_done > 0);
  for (int i = 0; i < got.num_done; ++i) {
    REQUIRE(got.logits[i].empty() || same_bits(got.logits[i], want.logits[i]));
  }
}

void test_logits_are_the_plain_model_s(const ModelConfig& config, const CpuOptions& options,
                                       double tolerance) {
  const RandomCheckpoint checkpoint(config, 1);
  CpuModel model(config, checkpoint.tensors(), options);
  std::mt19937 rng(2);
  const auto tokens = random_tokens(kNumTokens, config.vocab_size, rng);
  const Sequence got = computed(model, tokens, {7, 3, 11}, kNumTokens);
  double error = 0, norm = 0;
  const std::vector<PlainGpt::Row> want = PlainGpt(config, checkpoint).logits(tokens);
  for (size_t t = 0; t < tokens.size(); ++t) {
    for (size_t v = 0; v < want[t].size(); ++v) {
      const double difference = got.logits[t][v] - want[t][v];
      error += difference * difference;
      norm += want[t][v] * want[t][v];
    }
  }
  REQUIRE(std::sqrt(error / norm) < tolerance);
}

// On the same pages as others before, in other steps, in other company, on more threads.
void test_cutting_company_and_threads_change_nothing(const ModelConfig& config,
                                                     CpuOptions options) {
  const RandomCheckpoint checkpoint(config, 3);
  std::mt19937 rng(4);
  std::vector<std::vector<int32_t>> texts;
  for (int i = 0; i < 6; ++i) {
    texts.push_back(random_tokens(kNumTokens - i, config.vocab_size, rng));
  }
  std::vector<Sequence> want;
  {
    CpuModel model(config, checkpoint.tensors(), options);
    for (const auto& text : texts) want.push_back(computed(model, text, {0, 1, 2}, kNumTokens));
  }
  for (const int num_threads : {1, 2}) {
    options.num_threads = num_threads;
    CpuModel model(config, checkpoint.tensors(), options);
    for (const int chunk : {1, 7, 64}) {
      require_same(computed(model, texts[0], {5, 1, 4}, chunk), want[0]);
    }
    std::vector<int32_t> pages(kNumPages);
    std::iota(pages.begin(), pages.end(), 0);
    for (int round = 0; round < 2; ++round) {
      std::ranges::shuffle(pages, rng);
      std::vector<Sequence> sequences;
      for (size_t i = 0; i < texts.size(); ++i) {
        const auto own = pages.begin() + static_cast<ptrdiff_t>(3 * i);
        sequences.push_back({.tokens = texts[i], .pages = {own, own + 3}});
      }
      std::vector<Advance> advances;
      do {
        advances.clear();
        for (Sequence& sequence : sequences) {
          const int left = static_cast<int>(sequence.tokens.size()) - sequence.num_done;
          if (left == 0 || rng() % 3 == 0) continue;
          const int most = std::array{1, 3, 9, 70}[rng() % 4];
          const int num_tokens = 1 + static_cast<int>(rng() % std::min(left, most));
          const int num_logits = static_cast<int>(rng() % (num_tokens + 1));
          advances.push_back({&sequence, num_tokens, num_logits});
        }
        std::ranges::shuffle(advances, rng);
        if (!advances.empty()) step(model, advances);
      } while (std::ranges::any_of(
          sequences, [](const auto& it) { return it.num_done < std::ssize(it.tokens); }));
      for (size_t i = 0; i < texts.size(); ++i) require_same(sequences[i], want[i]);
    }
  }
}

void test_copied_pages_go_on_alone(const ModelConfig& config, const CpuOptions& options) {
  const RandomCheckpoint checkpoint(config, 5);
  CpuModel model(config, checkpoint.tensors(), options);
  std::mt19937 rng(6);
  const auto tokens = random_tokens(kNumTokens, config.vocab_size, rng);
  const Sequence want = computed(model, tokens, {0, 1, 2}, kNumTokens);

  Sequence sequence{.tokens = tokens, .pages = {3, 4, 5}};
  step(model, {{&sequence, 100, 1}});
  model.copy_page(3, 8);
  model.copy_page(4, 6);
  static_cast<void>(computed(model, random_tokens(128, config.vocab_size, rng), {3, 4}, 128));
  sequence.pages = {8, 6, 7};
  step(model, {{&sequence, kNumTokens - 100, kNumTokens - 100}});
  require_same(sequence, want);
}

void test_tokens_are_those_of_the_sampler(const ModelConfig& config, CpuOptions options) {
  options.num_threads = 2;
  const RandomCheckpoint checkpoint(config, 7);
  CpuModel model(config, checkpoint.tensors(), options);
  std::mt19937 rng(8);
  const auto tokens = random_tokens(40, config.vocab_size, rng);
  const Sequence sequence = computed(model, tokens, {0}, 40);
  const SamplingParams params{.top_k = 20, .repetition_penalty = 1.2, .num_logprobs = 2};
  std::vector<Draw> draws;
  for (int row = 39; row >= 0; row -= 3) {
    draws.push_back({.row = row,
                     .params = &params,
                     .seed = 9,
                     .sample = 1,
                     .position = row + 1,
                     .seen = std::span(tokens).first(row + 1)});
  }
  std::vector<Drawn> drawn(draws.size());
  model.sample(draws, drawn);
  SamplerScratch scratch;
  for (size_t i = 0; i < draws.size(); ++i) {
    const Drawn want = sample(sequence.logits[draws[i].row], config.softcap, draws[i], scratch);
    REQUIRE(drawn[i].token == want.token && drawn[i].logprob == want.logprob);
    REQUIRE(drawn[i].top.size() == 2 && drawn[i].top[1].token == want.top[1].token);
  }
}

void test_checkpoint_in_bf16_is_the_same(const ModelConfig& config, const CpuOptions& options) {
  const RandomCheckpoint checkpoint(config, 9);
  std::deque<std::vector<BFloat16>> memory;
  Tensors halves;
  for (const auto& [name, view] : checkpoint.tensors()) {
    int64_t size = 1;
    for (int i = 0; i < view.rank; ++i) size *= view.sizes[i];
    auto& values = memory.emplace_back();
    for (int64_t i = 0; i < size; ++i) values.push_back(to_bfloat16(view.as<float>()[i]));
    halves[name] = view;
    halves[name].data = values.data();
    halves[name].dtype = DType::kBFloat16;
  }
  std::mt19937 rng(10);
  const auto tokens = random_tokens(70, config.vocab_size, rng);
  CpuModel full(config, checkpoint.tensors(), options), half(config, halves, options);
  require_same(computed(half, tokens, {0, 1}, 70), computed(full, tokens, {0, 1}, 70));
}

// The tensors of `checkpoint`, of which `change` makes one unfit, are refused by its name.
template <typename Change>
void require_refused(const ModelConfig& config, const RandomCheckpoint& checkpoint,
                     const std::string& name, const Change& change) {
  Tensors tensors = checkpoint.tensors();
  change(tensors);
  std::string message;
  try {
    const CpuModel model(config, tensors, {.num_pages = 1});
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  REQUIRE(message.find(name) != std::string::npos);
}

void test_unfit_tensors_are_refused(const ModelConfig& config) {
  const RandomCheckpoint checkpoint(config, 11);
  for (const auto& [name, view] : checkpoint.tensors()) {
    require_refused(config, checkpoint, name, [&](Tensors& all) { all.erase(name); });
    for (int i = 0; i < view.rank; ++i) {
      require_refused(config, checkpoint, name, [&](Tensors& all) { all[name].sizes[i] = 0; });
    }
    const int last = view.rank - 1;
    require_refused(config, checkpoint, name, [&](Tensors& all) { ++all[name].sizes[last]; });
    for (const DType dtype : {DType::kFloat64, DType::kInt64}) {
      require_refused(config, checkpoint, name, [&](Tensors& all) { all[name].dtype = dtype; });
    }
  }
  const std::string wte = "transformer.wte.weight";
  require_refused(config, checkpoint, wte, [&](Tensors& all) { all[wte].rank = 1; });
  require_refused(config, checkpoint, wte,
                  [&](Tensors& all) { all[wte].sizes[0] = config.vocab_size - 1; });
}

}  // namespace

int main() {
  for (const ModelConfig& config : {tiny_modern(), tiny_classic()}) {
    for (int isa = 0; isa <= static_cast<int>(best_isa()); ++isa) {
      // Of about a dozen matrices in a row the inputs are rounded, and weights to int8.
      for (const auto& [precision, tolerance] : {std::pair{Precision::kFloat32, 3e-6},
                                                 {Precision::kBFloat16, 1.5e-2},
                                                 {Precision::kInt8, 4e-2}}) {
        const CpuOptions options{.precision = precision,
                                 .isa = static_cast<Isa>(isa),
                                 .num_threads = 1,
                                 .num_pages = kNumPages};
        test_logits_are_the_plain_model_s(config, options, tolerance);
        test_cutting_company_and_threads_change_nothing(config, options);
        test_copied_pages_go_on_alone(config, options);
        test_tokens_are_those_of_the_sampler(config, options);
        test_checkpoint_in_bf16_is_the_same(config, options);
      }
    }
    test_unfit_tensors_are_refused(config);
  }
}
