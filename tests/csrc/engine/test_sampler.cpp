// The sampler against a sort of the vocabulary and exact noise for all of it, and its loops at
// every instruction level. Against NumPy: tests/python/engine/test_sampling.py.
#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>

#include "engine/philox.h"
#include "engine/sampler_loops.h"
#include "require.h"

namespace {

using namespace nanochat::engine;
using nanochat::CpuLevel;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(size_t size, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> logits(size);
  for (float& x : logits) x = spread * normal(random);
  return logits;
}

template <typename Body>
void for_each_level(const Body& body) {
  for (const CpuLevel level : {CpuLevel::kBase, CpuLevel::kAvx2, CpuLevel::kAvx512}) {
    if (level <= nanochat::best_cpu_level()) body(level);
  }
}

// The definition, one line for each part of it.
int32_t sample_slowly(std::span<const float> logits, const SamplingParams& params,
                      const PhiloxStream& stream) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const double max = logits[order[0]];
  const auto score = [&](int32_t id) { return (logits[id] - max) / params.temperature; };
  if (params.top_k > 0) {
    order.resize(std::min(order.size(), static_cast<size_t>(params.top_k)));
  }
  if (params.top_p < 1) {
    double total = 0, mass = 0;
    for (const int32_t id : order) total += std::exp(score(id));
    size_t num_kept = 0;
    while (num_kept < order.size() && mass / total < params.top_p) {
      mass += std::exp(score(order[num_kept++]));
    }
    order.resize(num_kept);
  }
  std::erase_if(order, [&](int32_t id) {
    return params.min_p > 0 && logits[id] < max + params.temperature * std::log(params.min_p);
  });
  std::ranges::sort(order);
  const auto noisy = [&](int32_t id) {
    const double u = (static_cast<double>(stream.word(id) >> 11) + 0.5) * 0x1p-53;
    return score(id) - std::log(-std::log(u));
  };
  return *std::ranges::max_element(order, {}, noisy);
}

void test_words_are_those_of_philox() {
  // Random123's known answer, of key and counter 0. Counters start at 1 here: -1 wraps to it.
  const auto zeros = PhiloxStream(0, 0, 0).block(~uint64_t{0});
  REQUIRE(zeros[0] == 0x16554d9eca36314c && zeros[1] == 0xdb20fe9d672d0fdc);
  REQUIRE(zeros[2] == 0xd7e772cee186176b && zeros[3] == 0x7e68b68aec7ba23b);
  // NumPy's Philox(key=[1, 2], counter=[0, 3, 0, 0]).random_raw(6).
  const PhiloxStream stream(1, 2, 3);
  const uint64_t expected[] = {0x23278960bbd21e3d, 0x39a88273926b8f36, 0x41567896ec753ad6,
                               0xd642f2f40243945f, 0xa29f1f59ab30c12a, 0x2293aad62fd9221f};
  for (uint64_t i = 0; i < 6; ++i) REQUIRE(stream.word(i) == expected[i]);
}

void test_draws_are_those_of_the_definition() {
  struct Size {
    size_t num_tokens;
    int num_draws;
  };
  SamplerScratch scratch;  // shared by all, so that nothing of one draw may reach the next
  int64_t position = 0;
  for (const auto& [num_tokens, num_draws] :
       {Size{1, 3}, Size{2, 30}, Size{65536, 1}, Size{300, 200}, Size{32768, 3}}) {
    for (const float spread : {0.0f, 0.02f, 1.0f, 6.0f}) {
      const auto logits = random_logits(num_tokens, spread, 7);
      for (const SamplingParams& params : std::initializer_list<SamplingParams>{
               {},
               {.temperature = 0.3},
               {.temperature = 5.0},
               {.temperature = 1e-300},
               {.top_k = 1},
               {.top_k = 50},
               {.top_k = 20000},
               {.top_p = 0.9},
               {.top_p = 1e-9},
               {.temperature = 2.0, .top_p = 0.999},
               {.top_k = 40, .top_p = 0.7},
               {.min_p = 0.05},
               {.min_p = 1.0},
               {.temperature = 1.5, .top_k = 1000, .top_p = 0.95, .min_p = 0.01}}) {
        for (int i = 0; i < num_draws; ++i) {
          const Draw draw{
              .params = &params, .seed = 5, .sample = 9, .position = ++position, .seen = {}};
          const PhiloxStream stream(5, 9, static_cast<uint64_t>(position));
          REQUIRE(sample(logits, 0.0f, draw, scratch).token ==
                  sample_slowly(logits, params, stream));
        }
      }
    }
  }
}

void test_softcap_is_exact_and_never_falls() {
  for_each_level([](CpuLevel level) {
    for (const float cap : {15.0f, 30.0f, 0.7f}) {
      for (uint32_t begin = 0; begin < 0x7f800000; begin += 1 << 20) {  // floats, from 0 to the end
        std::vector<float> logits(257), capped(257);
        for (uint32_t i = 0; i < 257; ++i) logits[i] = std::bit_cast<float>(begin + i);
        softcap(level, logits, cap, capped.data());
        REQUIRE(std::ranges::is_sorted(capped));
        for (size_t i = 0; i < logits.size(); i += 64) {
          const double wide = cap;
          const auto exact = static_cast<float>(wide * std::tanh(logits[i] / wide));
          REQUIRE(std::abs(capped[i] - exact) <= exact * 1.2e-7f);  // one step
        }
      }
    }
    float ends[] = {-kInfinity, -3e38f, 3e38f};
    softcap(level, ends, 15.0f, ends);
    REQUIRE(ends[0] == -kInfinity && ends[1] == -15.0f && ends[2] == 15.0f);
  });
}

void test_loops_do_what_they_say_at_every_level() {
  for_each_level([](CpuLevel level) {
    for (const size_t size : {1, 3, 16, 63, 64, 65, 200, 4097}) {
      auto logits = random_logits(size, 3.0f, static_cast<uint32_t>(size));
      logits[size / 2] = -kInfinity;
      logits[size - 1] = logits[0] = 20.0f;  // the largest, twice
      const Largest largest = max_of(level, logits);
      REQUIRE(largest.value == 20.0f && largest.is_sound);
      REQUIRE(index_of_max(level, logits, 20.0f) == 0);

      std::vector<int32_t> picks(size), expected;
      for (size_t i = 0; i < size; ++i) {
        if (logits[i] >= 0.5f) expected.push_back(static_cast<int32_t>(i));
      }
      picks.resize(static_cast<size_t>(pick_from(level, logits, 0.5f, picks.data())));
      REQUIRE(picks == expected);

      std::vector<double> weights(size);
      const double total = weights_of(level, logits, 20.0f, 0.7, weights.data());
      double sum = 0, sum_from = 0, sum_at_one = 0;
      for (size_t i = 0; i < size; ++i) {
        const double exact = std::exp((static_cast<double>(logits[i]) - 20.0) / 0.7);
        REQUIRE(std::abs(weights[i] - exact) <= 2e-15 * exact + 1e-307);
        sum += exact;
        sum_from += logits[i] >= 0.5f ? exact : 0;
        sum_at_one += std::exp(static_cast<double>(logits[i]) - 20.0);
      }
      REQUIRE(std::abs(total - sum) <= 1e-13 * sum);
      REQUIRE(std::abs(mass_from(level, logits, weights.data(), 0.5f) - sum_from) <= 1e-13 * sum);
      REQUIRE(std::abs(sum_of_exp(level, logits, 20.0f) - sum_at_one) <= 2e-6 * sum_at_one);

      for (const size_t num_groups : {size_t{1}, (size + 1) / 2, size}) {
        std::vector<float> maxima(num_groups), slow(num_groups, -kInfinity);
        maxima_of_groups(level, logits, maxima);
        for (size_t i = 0; i < size; ++i) {
          slow[i % num_groups] = std::max(slow[i % num_groups], logits[i]);
        }
        REQUIRE(maxima == slow);
      }
    }
  });
}

// Each of the tokens whose noise is just enough, none of those whose noise is clearly too little.
void test_candidates_are_few_and_none_is_missed() {
  for_each_level([](CpuLevel level) {
    for (const float bound : {30.0f, 0.1f, 1e-3f}) {
      const auto logits = random_logits(333, 2.0f, 3);
      std::vector<int32_t> enough(logits.size()), too_little(logits.size()), picks(logits.size());
      for (size_t i = 0; i < logits.size(); ++i) {
        const double edge = std::exp((static_cast<double>(logits[i]) - 7.0) * 0.8) * bound;
        enough[i] = static_cast<int32_t>(std::min(edge * 0x1p31, 0x1p31 - 1));
        too_little[i] = static_cast<int32_t>(std::min(edge * 1.003 * 0x1p31 + 1, 0x1p31 - 1));
        if (edge > 0.99) too_little[i] = enough[i];  // any noise will do
      }
      const auto count = [&](const std::vector<int32_t>& bits) {
        return pick_candidates(level, logits, 7.0f, 0.8f, bits.data(), bound, picks.data());
      };
      REQUIRE(count(enough) == 333);
      REQUIRE(count(too_little) == std::ranges::count_if(logits, [&](float x) {
                return std::exp((static_cast<double>(x) - 7.0) * 0.8) * bound > 0.99;
              }));
    }
  });
}

void test_bad_logits_are_refused() {
  SamplerScratch scratch;
  const SamplingParams params;
  const auto refusal = [&](const std::vector<float>& logits) -> std::string {
    try {
      static_cast<void>(sample(logits, 15.0f, {.params = &params, .seen = {}}, scratch));
    } catch (const std::domain_error& error) {
      return error.what();
    }
    return "";
  };
  for (size_t bad = 0; bad < 150; ++bad) {  // in whole vectors and in the rest
    std::vector<float> logits(150, 1.0f);
    logits[bad] = NAN;
    const std::string token = " for token " + std::to_string(bad) + ";";
    REQUIRE(refusal(logits).find("got NaN" + token) != std::string::npos);
    logits[bad] = kInfinity;
    REQUIRE(refusal(logits).find("got inf" + token) != std::string::npos);
    logits[bad] = -kInfinity;
    REQUIRE(refusal(logits).empty());
  }
  REQUIRE(refusal(std::vector<float>(5, -kInfinity)).find("for all 5 tokens") != std::string::npos);
}

void test_a_penalty_that_leaves_nothing_is_refused() {
  SamplerScratch scratch;
  const SamplingParams params{.repetition_penalty = 10};
  const std::vector<int32_t> seen = {0};
  bool is_refused = false;
  try {  // times 10 is -inf
    static_cast<void>(sample(std::vector<float>{-3e38f, -kInfinity}, 0.0f,
                             {.params = &params, .seen = seen}, scratch));
  } catch (const std::domain_error&) {
    is_refused = true;
  }
  REQUIRE(is_refused);
}

void test_parameters_out_of_bounds_are_refused() {
  SamplerScratch scratch;
  for (const SamplingParams& params :
       std::initializer_list<SamplingParams>{{.temperature = -1e-9},
                                             {.temperature = 5.1},
                                             {.temperature = NAN},
                                             {.top_p = 0},
                                             {.top_p = NAN},
                                             {.min_p = 1.1},
                                             {.repetition_penalty = 0},
                                             {.repetition_penalty = HUGE_VAL}}) {
    bool is_refused = false;
    try {
      const Draw draw{.params = &params, .seen = {}};
      static_cast<void>(sample(std::vector<float>(3), 15.0f, draw, scratch));
    } catch (const std::invalid_argument& error) {
      is_refused = std::string(error.what()).starts_with("sampler: ");
    }
    REQUIRE(is_refused);
  }
}

}  // namespace

int main() {
  test_words_are_those_of_philox();
  test_draws_are_those_of_the_definition();
  test_softcap_is_exact_and_never_falls();
  test_loops_do_what_they_say_at_every_level();
  test_candidates_are_few_and_none_is_missed();
  test_bad_logits_are_refused();
  test_a_penalty_that_leaves_nothing_is_refused();
  test_parameters_out_of_bounds_are_refused();
}
