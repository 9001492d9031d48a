// No sort of the vocabulary and no exact noise for all of it: passes in vectors (sampler_loops.h)
// leave few tokens, and those few are settled in double, by the formulas of sampling.py.
#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "common/check.h"
#include "engine/philox.h"
#include "engine/sampler_loops.h"

namespace nanochat::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr size_t kChunk = 256;  // tokens that share a bound on the noise they need

// Tokens that may still be drawn, ids rising, and their logits beside them.
struct Kept {
  std::span<int32_t> ids;
  std::span<float> logits;
};

// The last token, by falling logit and then by rising id, that a cut keeps.
struct Edge {
  float logit;
  int32_t id;
};

class Sampler {
 public:
  Sampler(const SamplingParams& params, SamplerScratch& scratch)
      : params_(params), scratch_(scratch) {}

  Drawn sample(std::span<const float> raw, float cap, const Draw& draw);

 private:
  void apply_penalty(std::span<const int32_t> seen);
  std::vector<TokenLogprob> likeliest(double log_sum) const;
  std::span<int32_t> pick_from(float logit) const;
  std::span<int32_t> pick_likeliest(size_t k) const;
  void cut(Edge edge, std::span<const int32_t> picks);
  void cut_top_k();
  void cut_top_p();
  void cut_min_p();
  int32_t draw_token(const PhiloxStream& stream) const;

  const SamplingParams& params_;
  SamplerScratch& scratch_;
  const CpuLevel level_ = best_cpu_level();
  Kept kept_;
  float max_ = 0;  // of the logits kept; no cut changes it
};

// The largest logit, if all may be sampled from.
float checked_max(CpuLevel level, std::span<const float> logits) {
  check(!logits.empty(), "sampler: logits must be of at least one token, got none");
  const Largest largest = max_of(level, logits);
  if (!largest.is_sound) {
    const auto bad = std::ranges::find_if_not(logits, [](float x) { return x < kInfinity; });
    throw std::domain_error(concat(
        "sampler: logits must be numbers, got ", std::isnan(*bad) ? "NaN" : "inf", " for token ",
        bad - logits.begin(), "; the model overflows: check its weights, or run it in fp32"));
  }
  if (largest.value == -kInfinity) {
    throw std::domain_error(concat("sampler: a logit must be finite, got -inf for all ",
                                   logits.size(), " tokens; allow one"));
  }
  return largest.value;
}

// Falling by logit; of equals the lower index first.
auto likelier(std::span<const float> logits) {
  return [logits](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
}

// Standard Gumbel noise from the upper 53 bits of a word.
double gumbel(uint64_t word) {
  const double uniform = (static_cast<double>(word >> 11) + 0.5) * 0x1p-53;
  return -std::log(-std::log(std::min(uniform, 1 - 0x1p-53)));  // the last would round to 1
}

// 31 bits of 1 - u for each of a chunk of ids, rounded down. Neighbours share the work of a block.
void high_bits_of_words(const PhiloxStream& stream, std::span<const int32_t> ids, int32_t* bits) {
  const auto of = [](uint64_t word) { return static_cast<int32_t>(~word >> 33); };
  const int32_t first = ids.front() & ~3;
  const int32_t span = (ids.back() - first) / 4 * 4 + 4;  // whole blocks
  std::array<int32_t, 4 * kChunk> all;                    // while a word costs less than a block
  if (span > static_cast<int32_t>(all.size())) {
    for (size_t i = 0; i < ids.size(); ++i) bits[i] = of(stream.word(ids[i]));
    return;
  }
  for (int32_t i = 0; i < span; i += 4) {
    const PhiloxStream::Block block = stream.block((first + i) / 4);
    for (int k = 0; k < 4; ++k) all[i + k] = of(block[k]);
  }
  for (size_t i = 0; i < ids.size(); ++i) bits[i] = all[ids[i] - first];
}

Drawn Sampler::sample(std::span<const float> raw, float cap, const Draw& draw) {
  const float raw_max = checked_max(level_, raw);
  const bool has_penalty = params_.repetition_penalty != 1 && !draw.seen.empty();
  const bool wants_logprobs = params_.num_logprobs >= 0;
  // The softcap never falls, so the likeliest token is known without it.
  const bool is_argmax = params_.temperature == 0 && !has_penalty;
  Drawn drawn;
  if (is_argmax) drawn.token = index_of_max(level_, raw, raw_max);
  if (is_argmax && !wants_logprobs) return drawn;

  const size_t V = raw.size();
  scratch_.capped.resize(V);
  scratch_.kept.resize(V);
  scratch_.picks.resize(V);
  kept_ = {.ids = scratch_.kept, .logits = scratch_.capped};
  const auto capped = [&](std::span<const float> logits, float* out) {
    if (cap > 0) {
      softcap(level_, logits, cap, out);
    } else {
      std::ranges::copy(logits, out);
    }
  };
  capped(raw, kept_.logits.data());
  std::iota(kept_.ids.begin(), kept_.ids.end(), 0);
  max_ = max_of(level_, kept_.logits).value;

  double log_sum = 0;
  if (wants_logprobs) {
    log_sum = static_cast<double>(max_) + std::log(sum_of_exp(level_, kept_.logits, max_));
    drawn.top = likeliest(log_sum);
  }
  if (!is_argmax) {
    if (has_penalty) {
      apply_penalty(draw.seen);
      max_ = checked_max(level_, kept_.logits);
    }
    if (params_.temperature == 0) {
      drawn.token = index_of_max(level_, kept_.logits, max_);
    } else {
      if (params_.top_k > 0) cut_top_k();
      if (params_.top_p < 1) cut_top_p();
      if (params_.min_p > 0) cut_min_p();
      drawn.token =
          draw_token(PhiloxStream(draw.seed, draw.sample, static_cast<uint64_t>(draw.position)));
    }
  }
  if (wants_logprobs) {
    float logit;  // as it was before the penalty
    capped(raw.subspan(drawn.token, 1), &logit);
    drawn.logprob = static_cast<float>(static_cast<double>(logit) - log_sum);
  }
  return drawn;
}

void Sampler::apply_penalty(std::span<const int32_t> seen) {
  const auto V = static_cast<int64_t>(kept_.logits.size());
  const auto penalty = static_cast<float>(params_.repetition_penalty);
  scratch_.is_seen.assign(V, false);
  for (const int32_t token : seen) {
    if (token < 0 || token >= V) {
      throw std::out_of_range(concat("sampler: tokens seen must be 0 to ", V - 1, ", got ", token));
    }
    if (scratch_.is_seen[token]) continue;
    scratch_.is_seen[token] = true;
    float& logit = kept_.logits[token];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

std::vector<TokenLogprob> Sampler::likeliest(double log_sum) const {
  const std::span<const float> logits = kept_.logits;
  const size_t n = std::min(static_cast<size_t>(params_.num_logprobs), logits.size());
  std::vector<TokenLogprob> top;
  if (n == 0) return top;
  const std::span<int32_t> picks = pick_likeliest(n).first(n);
  std::ranges::sort(picks, likelier(logits));
  for (const int32_t i : picks) {
    top.push_back({i, static_cast<float>(static_cast<double>(logits[i]) - log_sum)});
  }
  return top;
}

// Indices, rising, of the tokens whose logits are at least `logit`.
std::span<int32_t> Sampler::pick_from(float logit) const {
  int32_t* picks = scratch_.picks.data();
  return {picks, static_cast<size_t>(engine::pick_from(level_, kept_.logits, logit, picks))};
}

// Indices of which the first k are of the k likeliest, the last of them at k - 1.
// The k-th largest of many groups' maxima is a bound below which none of the k likeliest is: k
// groups hold one token each that reaches it. Few others do, if there are many more groups than k.
std::span<int32_t> Sampler::pick_likeliest(size_t k) const {
  constexpr size_t kGroupSize = 64, kGroupsPerPick = 4;
  const std::span<const float> logits = kept_.logits;
  std::vector<float>& maxima = scratch_.maxima;
  maxima.resize(std::min(logits.size(), std::max(logits.size() / kGroupSize, kGroupsPerPick * k)));
  maxima_of_groups(level_, logits, maxima);
  const auto kth = maxima.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(maxima.begin(), kth, maxima.end(), std::greater<>());
  const std::span<int32_t> picks = pick_from(*kth);
  std::nth_element(picks.begin(), picks.begin() + static_cast<std::ptrdiff_t>(k - 1), picks.end(),
                   likelier(logits));
  return picks;
}

// `picks`: indices, rising, of all that the cut keeps and of others.
void Sampler::cut(Edge edge, std::span<const int32_t> picks) {
  size_t num_kept = 0;
  for (const int32_t i : picks) {
    const Edge token{.logit = kept_.logits[i], .id = kept_.ids[i]};
    kept_.logits[num_kept] = token.logit;
    kept_.ids[num_kept] = token.id;
    const bool is_equal = token.logit == edge.logit && token.id <= edge.id;
    num_kept += token.logit > edge.logit || is_equal ? 1 : 0;
  }
  kept_ = {.ids = kept_.ids.first(num_kept), .logits = kept_.logits.first(num_kept)};
}

void Sampler::cut_top_k() {
  const auto k = static_cast<size_t>(params_.top_k);
  if (k >= kept_.logits.size()) return;
  const int32_t last = pick_likeliest(k)[k - 1];
  const Edge edge{.logit = kept_.logits[last], .id = kept_.ids[last]};
  cut(edge, pick_from(edge.logit));
}

// Bisects between a logit whose tokens hold the mass and one whose tokens do not, then settles the
// few tokens between by halves. Sums are in double, and in an order of their own.
void Sampler::cut_top_p() {
  constexpr int kSteps = 8;  // of 32768 tokens a few hundred are left, unless they are equals
  const std::span<const float> logits = kept_.logits;
  const double p = params_.top_p;
  scratch_.weights.resize(std::max(scratch_.weights.size(), logits.size()));
  double* weights = scratch_.weights.data();
  const double total = weights_of(level_, logits, max_, params_.temperature, weights);
  const auto mass_above = [&](float logit) { return mass_from(level_, logits, weights, logit); };

  // What lies below `low` is at most (1 - p) / e of the likeliest token's weight.
  const double num_tokens = static_cast<double>(logits.size());
  const double depth = params_.temperature * (std::log(num_tokens / (1 - p)) + 1);
  float low = static_cast<float>(static_cast<double>(max_) - depth);
  float high = std::nextafter(max_, kInfinity);
  if (mass_above(low) / total < p) return;  // p is next to 1, and sums round
  double mass = 0;                          // from `high`
  for (int step = 0; step < kSteps; ++step) {
    const float middle = low + (high - low) / 2;
    const double with_middle = mass_above(middle);
    if (with_middle / total >= p) {
      low = middle;
    } else {
      high = middle;
      mass = with_middle;
    }
  }

  const std::span<const int32_t> picks = pick_from(low);
  std::vector<int32_t>& between = scratch_.between;
  between.clear();
  std::ranges::copy_if(picks, std::back_inserter(between),
                       [&](int32_t i) { return logits[i] < high; });
  auto begin = between.begin(), end = between.end();
  while (end - begin > 1) {  // the token that crosses is in [begin, end)
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, likelier(logits));
    const double with_half = std::accumulate(
        begin, middle, mass, [&](double sum, int32_t i) { return sum + weights[i]; });
    if (with_half / total >= p) {
      end = middle;
    } else {
      begin = middle;
      mass = with_half;
    }
  }
  cut({.logit = logits[*begin], .id = kept_.ids[*begin]}, picks);
}

void Sampler::cut_min_p() {
  const double floor = static_cast<double>(max_) + params_.temperature * std::log(params_.min_p);
  auto edge = static_cast<float>(floor);  // the least float that is at least `floor`
  if (static_cast<double>(edge) < floor) edge = std::nextafter(edge, kInfinity);
  cut({.logit = edge, .id = std::numeric_limits<int32_t>::max()}, pick_from(edge));
}

// The noise -log(-log u) beats a gap g only if -log u <= exp(-g), and -log u >= 1 - u: a comparison
// of 31 bits of 1 - u finds the few tokens that may beat the best so far.
int32_t Sampler::draw_token(const PhiloxStream& stream) const {
  const double temperature = params_.temperature;
  // Beyond 1e30 a gap counts for less than it is, which only names more candidates; 0 stays 0.
  const auto inv_temperature = static_cast<float>(std::min(1 / temperature, 1e30));

  double best = -std::numeric_limits<double>::infinity();
  int32_t best_id = 0;
  const auto consider = [&](size_t i) {
    const int32_t id = kept_.ids[i];
    const double gap = static_cast<double>(kept_.logits[i]) - static_cast<double>(max_);
    const double score = gap / temperature + gumbel(stream.word(id));
    if (score > best || (score == best && id < best_id)) {
      best = score;
      best_id = id;
    }
  };
  consider(index_of_max(level_, kept_.logits, max_));

  std::array<int32_t, kChunk> high_bits, picks;
  for (size_t begin = 0; begin < kept_.ids.size(); begin += kChunk) {
    const size_t size = std::min(kChunk, kept_.ids.size() - begin);
    high_bits_of_words(stream, kept_.ids.subspan(begin, size), high_bits.data());
    const int64_t num_picks =
        pick_candidates(level_, kept_.logits.subspan(begin, size), max_, inv_temperature,
                        high_bits.data(), static_cast<float>(std::exp(-best)), picks.data());
    for (int64_t k = 0; k < num_picks; ++k) consider(begin + static_cast<size_t>(picks[k]));
  }
  return best_id;
}

}  // namespace

void check_params(const SamplingParams& params) {
  const auto check_range = [](const char* name, double value, double low, double high) {
    check(value >= low && value <= high, "sampler: ", name, " must be ", low, " to ", high,
          ", got ", value);
  };
  check_range("temperature", params.temperature, 0, kMaxTemperature);
  check_range("min_p", params.min_p, 0, 1);
  check_range("repetition_penalty", params.repetition_penalty, kMinPenalty, kMaxPenalty);
  check(params.top_p > 0, "sampler: top_p must be above 0, got ", params.top_p);
}

Drawn sample(std::span<const float> logits, float softcap, const Draw& draw,
             SamplerScratch& scratch) {
  check_params(*draw.params);
  return Sampler(*draw.params, scratch).sample(logits, softcap, draw);
}

}  // namespace nanochat::engine
