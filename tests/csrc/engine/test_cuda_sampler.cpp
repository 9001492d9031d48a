// The sampler on the device, run on the host thread by thread, against the one of the host.
#include "engine/cuda/device_sampler.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>
#include <vector>

#include "require.h"

namespace {

using namespace nanochat::engine;
using nanochat::engine::cuda::DeviceSampler;

// Tokens and logprobs of draws of every kind, over logits with equals and with tokens that cannot
// be drawn.
void test_draws_are_the_host_s() {
  constexpr int kVocab = 1003, kStride = 1024;
  std::mt19937 rng(8);
  std::normal_distribution<float> normal(0, 4);
  constexpr int kRows = 3;
  std::vector<float> logits(kRows * kStride, NAN);
  for (int row = 0; row < kRows; ++row) {
    for (int i = 0; i < kVocab; ++i) {
      float& x = logits[row * kStride + i];
      x = normal(rng);
      if (row == 1) x = std::round(x);
      if (row == 2 && i % 3 != 0) x = -INFINITY;
    }
  }
  std::vector<int32_t> seen(40);
  for (int32_t& token : seen) token = static_cast<int32_t>(rng() % kVocab);
  seen[7] = seen[3];

  std::vector<SamplingParams> params;
  for (const double temperature : {0.0, 0.7, 3.0}) {
    for (const int top_k : {0, 1, 50, 2000}) {
      for (const double top_p : {1.0, 0.9, 1e-9}) {
        for (const double min_p : {0.0, 0.05}) {
          params.push_back({.temperature = temperature,
                            .top_k = top_k,
                            .top_p = top_p,
                            .min_p = min_p,
                            .repetition_penalty = params.size() % 3 == 0 ? 1.3 : 1.0,
                            .num_logprobs = static_cast<int>(params.size() % 5) - 1});
        }
      }
    }
  }
  std::vector<Draw> draws;
  for (const SamplingParams& p : params) {
    draws.push_back({.row = static_cast<int>(draws.size() % kRows),
                     .params = &p,
                     .seed = rng(),
                     .sample = rng() % 4,
                     .position = static_cast<int64_t>(rng() % 2000),
                     .seen = seen});
  }
  for (const float softcap : {0.0f, 15.0f}) {
    DeviceSampler sampler(64, 64, kVocab, kStride, softcap, 100);  // fewer than there are draws
    std::vector<Drawn> drawn(draws.size());
    sampler.sample({}, logits.data(), draws, drawn);
    SamplerScratch scratch;
    for (size_t i = 0; i < draws.size(); ++i) {
      const auto row = std::span(logits).subspan(draws[i].row * kStride, kVocab);
      const Drawn want = sample(row, softcap, draws[i], scratch);
      REQUIRE(drawn[i].token == want.token);
      REQUIRE(std::abs(drawn[i].logprob - want.logprob) < 1e-5f * (1 + std::abs(want.logprob)));
      REQUIRE(drawn[i].top.size() == want.top.size());
      for (size_t n = 0; n < want.top.size(); ++n) {
        REQUIRE(drawn[i].top[n].token == want.top[n].token);
        REQUIRE(std::abs(drawn[i].top[n].logprob - want.top[n].logprob) < 1e-4f);
      }
    }
  }
}

// The noise alone draws from the softmax of what is kept.
void test_draws_follow_the_softmax() {
  const std::vector<float> logits{1.0f, 0.0f, 2.0f, -1.0f};
  const SamplingParams params{.top_k = 3};
  constexpr int kDraws = 400;
  std::vector<Draw> draws;
  for (int i = 0; i < kDraws; ++i)
    draws.push_back({.params = &params, .seed = 9, .position = i, .seen = {}});
  std::vector<Drawn> drawn(kDraws);
  DeviceSampler(kDraws, kDraws, 4, 4, 0, 1).sample({}, logits.data(), draws, drawn);
  double total = 0;
  for (int id = 0; id < 3; ++id) total += std::exp(logits[id]);
  for (int id = 0; id < 4; ++id) {
    const double p = id < 3 ? std::exp(logits[id]) / total : 0;
    const auto count = static_cast<double>(
        std::ranges::count_if(drawn, [&](const Drawn& d) { return d.token == id; }));
    REQUIRE(std::abs(count - kDraws * p) <= 4 * std::sqrt(kDraws * p * (1 - p)));
  }
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

void test_draws_that_cannot_be_are_refused() {
  DeviceSampler sampler(4, 4, 4, 4, 15, 2);
  const auto draw = [&](std::vector<float> logits, SamplingParams params,
                        std::vector<int32_t> seen = {}) {
    const Draw one{.params = &params, .seed = 1, .seen = seen};
    Drawn drawn;
    sampler.sample({}, logits.data(), {&one, 1}, {&drawn, 1});
  };
  const std::vector<float> good{0, 1, 2, -INFINITY};
  REQUIRE(throws<std::domain_error>([&] { draw({0, NAN, 0, 0}, {}); }));
  REQUIRE(throws<std::domain_error>([&] { draw({0, INFINITY, 0, 0}, {}); }));
  REQUIRE(throws<std::domain_error>([&] { draw(std::vector<float>(4, -INFINITY), {}); }));
  REQUIRE(throws<std::invalid_argument>([&] { draw(good, {.temperature = -1}); }));
  REQUIRE(throws<std::invalid_argument>([&] { draw(good, {.repetition_penalty = 0}); }));
  REQUIRE(throws<std::invalid_argument>([&] { draw(good, {.top_p = 0}); }));
  REQUIRE(throws<std::invalid_argument>([&] { draw(good, {.min_p = 1.5}); }));
  REQUIRE(throws<std::invalid_argument>([&] { draw(good, {.num_logprobs = 33}); }));
  const SamplingParams penalty{.repetition_penalty = 2};
  REQUIRE(throws<std::out_of_range>([&] { draw(good, penalty, {4}); }));
  REQUIRE(throws<std::invalid_argument>([&] { draw(good, penalty, {0, 1, 2}); }));
  draw(good, penalty, {0, 1});
}

}  // namespace

int main() {
  test_draws_are_the_host_s();
  test_draws_follow_the_softmax();
  test_draws_that_cannot_be_are_refused();
}
