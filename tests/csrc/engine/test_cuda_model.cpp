// The CUDA engine's kernels, run on the host thread by thread: against the plain model, and against
// themselves for every way to cut the same tokens into steps.
#include "engine/cuda/cuda_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "engine/plain_gpt.h"
#include "require.h"

namespace {

using namespace nanochat;
using namespace nanochat::engine;

constexpr int kNumPages = 24;
constexpr int kMaxTokens = 80;  // two tiles, the second not full

// All that an architecture may have, at its smallest; windows end inside and at the end of pages.
ModelConfig modern() {
  return {.n_layer = 3,
          .n_head = 4,
          .n_kv_head = 2,
          .head_dim = 64,
          .n_embd = 96,
          .mlp_width = 160,
          .vocab_size = 70,
          .seq_len = 280,
          .rope_base = 100000,
          .norm_eps = 0x1p-23f,
          .qk_scale = 1.2f,
          .softcap = 15,
          .windows = {40, 64, -1},
          .has_value_embedding = {true, false, true},
          .ve_gate_channels = 12,
          .smear_gate_channels = 24,
          .backout_layer = 1,
          .use_residual_lambdas = true};
}

// Matrices that take more turns than there are stages, for any number of columns.
ModelConfig classic() {
  return {.n_layer = 2,
          .n_head = 1,
          .n_kv_head = 1,
          .head_dim = 128,
          .n_embd = 256,
          .mlp_width = 1632,
          .vocab_size = 64,
          .seq_len = 128,
          .rope_base = 10000,
          .norm_eps = 0x1p-23f,
          .softcap = 15,
          .windows = {-1, -1},
          .has_value_embedding = {false, false}};
}

std::vector<int32_t> random_tokens(const ModelConfig& config, int size, unsigned seed) {
  std::mt19937 rng(seed);
  std::vector<int32_t> tokens(size);
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng() % config.vocab_size);
  return tokens;
}

// A sequence on its way through a model.
struct Sequence {
  std::vector<int32_t> tokens;
  std::vector<int32_t> pages;
  int done = 0;
  std::vector<float> logits{};  // of all tokens done

  [[nodiscard]] Chunk next(int size) const {
    return {.tokens = std::span(tokens).subspan(done, size),
            .position = done,
            .previous = done == 0 ? -1 : tokens[done - 1],
            .pages = pages,
            .num_logits = size};
  }
};

struct Advance {
  Sequence* sequence;
  int size;
};

void step(Model& model, const std::vector<Advance>& advances) {
  std::vector<Chunk> chunks;
  for (const Advance& a : advances) chunks.push_back(a.sequence->next(a.size));
  model.forward(chunks);
  int row = 0;
  for (const Advance& a : advances) {
    for (int i = 0; i < a.size; ++i) {
      const std::span<const float> logits = model.logits(row++);
      a.sequence->logits.insert(a.sequence->logits.end(), logits.begin(), logits.end());
    }
    a.sequence->done += a.size;
  }
}

std::unique_ptr<Model> make_model(const ModelConfig& config, const RandomCheckpoint& checkpoint) {
  return make_cuda_model(config, checkpoint.tensors(), kNumPages, kMaxTokens, 0);
}

// Relative error of all logits in the root mean square.
double error_of(const std::vector<float>& logits, const std::vector<PlainGpt::Row>& want) {
  double error = 0, norm = 0;
  size_t i = 0;
  for (const PlainGpt::Row& row : want) {
    for (const double x : row) {
      error += (logits[i] - x) * (logits[i] - x);
      norm += x * x;
      ++i;
    }
  }
  REQUIRE(i == logits.size());
  return std::sqrt(error / norm);
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// Inputs of matrices are rounded to bf16, by 2^-9 at most; layers add up.
constexpr double kTolerance = 6e-3;

void require_plain_logits(const ModelConfig& config, const RandomCheckpoint& checkpoint,
                          const Sequence& sequence) {
  REQUIRE(error_of(sequence.logits, PlainGpt(config, checkpoint).logits(sequence.tokens)) <
          kTolerance);
}

// Tokens in large chunks, as the plain model has them; then the same in other steps and other
// company: same bits.
void test_modern_logits_in_any_steps_and_company() {
  const ModelConfig config = modern();
  const RandomCheckpoint checkpoint(config, 3);
  const auto model = make_model(config, checkpoint);
  const std::vector<int32_t> tokens = random_tokens(config, 280, 4);
  Sequence want{.tokens = tokens, .pages = {7, 3, 11, 0, 9}};
  while (want.done < 280) step(*model, {{&want, 70}});
  require_plain_logits(config, checkpoint, want);

  Sequence alone{.tokens = tokens, .pages = {1, 2, 4, 5, 6}};
  for (const int size : {1, 7, 8, 9, 33, 64, 65, 66, 1, 1, 1, 24}) {
    step(*model, {{&alone, size}});
  }
  REQUIRE(alone.done == 280 && same_bits(alone.logits, want.logits));

  // Beside others, each at a place of its own: decode steps (graphs) of 1 to 12 tokens between
  // mixed ones.
  std::vector<Sequence> many;
  for (int i = 0; i < 12; ++i) many.push_back({.tokens = tokens, .pages = {12 + i}});
  for (int round = 0; round < 14; ++round) {
    std::vector<Advance> advances;
    for (int i = 11; i >= 0; --i) {
      if (i <= round) advances.push_back({&many[i], round % 4 == 3 ? i % 3 + 1 : 1});
    }
    step(*model, advances);
  }
  for (const Sequence& sequence : many) {
    const std::span<const float> begin(want.logits.data(), sequence.logits.size());
    REQUIRE(sequence.done > 0 && same_bits(sequence.logits, begin));
  }
}

// Only the last tokens' logits are wanted, and a page is handed on by copy.
void test_classic_logits_of_rows_and_copied_pages() {
  const ModelConfig config = classic();
  const RandomCheckpoint checkpoint(config, 5);
  const auto model = make_model(config, checkpoint);
  Sequence want{.tokens = random_tokens(config, 60, 6), .pages = {5}};
  step(*model, {{&want, 60}});
  require_plain_logits(config, checkpoint, want);
  const size_t V = config.vocab_size;
  const auto wanted = [&](int t) { return std::span(want.logits).subspan(t * V, V); };

  const std::vector<int32_t> first_pages{2}, second_pages{3};
  const auto chunk = [&](int begin, int size, const std::vector<int32_t>& pages, int num_logits) {
    return Chunk{.tokens = std::span(want.tokens).subspan(begin, size),
                 .position = begin,
                 .previous = begin == 0 ? -1 : want.tokens[begin - 1],
                 .pages = pages,
                 .num_logits = num_logits};
  };
  model->forward(std::vector{chunk(0, 20, first_pages, 0)});
  model->copy_page(2, 3);
  model->forward(std::vector{chunk(20, 30, first_pages, 2), chunk(20, 5, second_pages, 1)});
  const std::span<const float> last = model->logits(1);
  REQUIRE(same_bits(model->logits(2), wanted(24)));
  REQUIRE(same_bits(model->logits(0), wanted(48)));
  REQUIRE(same_bits(last, wanted(49)));
  model->forward(std::vector{chunk(25, 12, second_pages, 1)});
  REQUIRE(same_bits(model->logits(0), wanted(36)));
  model->forward(std::vector{chunk(37, 1, second_pages, 1)});
  REQUIRE(same_bits(model->logits(0), wanted(37)));
}

// Other weights in place are those of a model made from them, in graphs too, which hold scalars of
// the weights; weights that do not fit change nothing.
void test_other_weights_in_place() {
  const ModelConfig config = modern();
  const RandomCheckpoint first(config, 3), second(config, 4);
  const std::vector<int32_t> tokens = random_tokens(config, 20, 5);
  const auto logits_of = [&](Model& model) {
    Sequence sequence{.tokens = tokens, .pages = {1}};
    for (const int size : {17, 1, 1, 1}) step(model, {{&sequence, size}});
    return sequence.logits;
  };
  const auto model = make_model(config, first), other = make_model(config, second);
  const std::vector<float> before = logits_of(*model), want = logits_of(*other);
  REQUIRE(!same_bits(before, want));
  Tensors broken = second.tensors();
  broken.erase("backout_lambda");  // the last to be looked for
  try {
    model->load(broken);
    REQUIRE(false);
  } catch (const std::invalid_argument&) {
    REQUIRE(same_bits(logits_of(*model), before));
  }
  model->load(second.tensors());
  REQUIRE(same_bits(logits_of(*model), want));
  model->load(first.tensors());
  REQUIRE(same_bits(logits_of(*model), before));
}

bool is_same(const Drawn& a, const Drawn& b) {
  return a.token == b.token && a.logprob == b.logprob;
}

// Several steps in one call against as many forwards and draws: other sequences beside, across the
// end of a page, and into the logits that are left.
void test_decode_is_as_many_steps() {
  const ModelConfig config = modern();
  const RandomCheckpoint checkpoint(config, 9);
  const auto model = make_model(config, checkpoint);
  constexpr int kSequences = 3, kSteps = 6;
  const SamplingParams params[kSequences] = {
      {.temperature = 0}, {.temperature = 1, .num_logprobs = 0}, {.temperature = 2, .top_k = 9}};
  std::vector<int32_t> tokens[kSequences], pages[kSequences];
  std::vector<Draw> draws;
  for (int i = 0; i < kSequences; ++i) {
    tokens[i] = random_tokens(config, 61 + i, 10 + i);
    draws.push_back({.row = i, .params = &params[i], .seed = 3, .position = 61 + i, .seen = {}});
  }
  const auto last_tokens = [&](int first_page) {
    std::vector<Chunk> chunks;
    for (int i = 0; i < kSequences; ++i) {
      pages[i] = {first_page + 2 * i, first_page + 2 * i + 1};
      const std::span<const int32_t> all(tokens[i]);
      const size_t n = all.size() - 1;
      model->forward(std::vector{Chunk{.tokens = all.first(n), .pages = pages[i]}});
      chunks.push_back({.tokens = all.subspan(n),
                        .position = static_cast<int32_t>(n),
                        .previous = all[n - 1],
                        .pages = pages[i],
                        .num_logits = 1});
    }
    return chunks;
  };
  std::vector<Drawn> want(kSequences * kSteps), got(kSequences * kSteps);
  model->Model::decode(last_tokens(0), draws, kSteps, want);
  const std::span<const float> last = model->logits(1);
  const std::vector<float> want_logits(last.begin(), last.end());
  std::vector<Chunk> chunks = last_tokens(10);
  model->decode(chunks, draws, kSteps, got);
  REQUIRE(std::ranges::equal(got, want, is_same));
  REQUIRE(same_bits(model->logits(1), want_logits));

  const auto is_refused = [&](std::vector<Draw> wrong, int num_steps) {
    try {
      model->decode(chunks, wrong, num_steps, got);
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  REQUIRE(!is_refused(draws, 2) && is_refused(draws, 0));
  std::vector<Draw> wrong = draws;
  std::swap(wrong[0], wrong[1]);
  REQUIRE(is_refused(wrong, 2));
  SamplingParams penalty;
  penalty.repetition_penalty = 2;
  wrong = draws;
  wrong[2].params = &penalty;
  REQUIRE(is_refused(wrong, 2));
  chunks[0].pages = chunks[0].pages.first(1);  // for 64 tokens, of which 60 are there
  REQUIRE(!is_refused(draws, 4) && is_refused(draws, 5));
}

template <typename Error, typename Call>
bool throws(const Call& call) {
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  return false;
}

void test_what_the_kernels_do_not_serve_is_refused() {
  const auto refused = [](auto error, auto change) {
    ModelConfig config = classic();
    change(config);
    const RandomCheckpoint checkpoint(config, 7);
    return throws<decltype(error)>([&] { (void)make_model(config, checkpoint); });
  };
  REQUIRE(!refused(Unsupported(""), [](ModelConfig&) {}));
  REQUIRE(refused(Unsupported(""), [](ModelConfig& c) { c.head_dim = 32; }));
  REQUIRE(refused(Unsupported(""), [](ModelConfig& c) { c.n_embd = 120; }));
  REQUIRE(refused(Unsupported(""), [](ModelConfig& c) { c.qk_scale = 2; }));
  REQUIRE(refused(std::invalid_argument(""), [](ModelConfig& c) { c.windows.pop_back(); }));
  const ModelConfig config = classic();
  RandomCheckpoint checkpoint(config, 7);
  Tensors tensors = checkpoint.tensors();
  tensors.erase("lm_head.weight");
  REQUIRE(throws<std::invalid_argument>([&] { (void)make_cuda_model(config, tensors, 1, 1, 0); }));
  const auto model = make_model(config, checkpoint);
  REQUIRE(throws<std::invalid_argument>([&] { (void)model->logits(0); }));
  REQUIRE(throws<std::invalid_argument>([&] { model->copy_page(0, kNumPages); }));
}

}  // namespace

int main() {
  test_modern_logits_in_any_steps_and_company();
  test_classic_logits_of_rows_and_copied_pages();
  test_other_weights_in_place();
  test_decode_is_as_many_steps();
  test_what_the_kernels_do_not_serve_is_refused();
}
