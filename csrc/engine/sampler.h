// Which token comes next: a pure function of logits, parameters, seed and position.
//
//   softcap -> repetition penalty -> temperature -> top-k -> top-p -> min-p
//           -> argmax(logit / temperature + Gumbel noise)
//
// The argmax draws from the softmax of what was kept. The noise of a token is word `token` of the
// Philox4x64-10 stream with key (seed, sample) and counter (0, position, 0, 0), as NumPy counts it:
// it depends on nothing that came before, so the same seed gives the same tokens in any batch,
// after a restart, or from a cache. nanochat.engine.sampling is the same in NumPy. Ties: the lowest
// id. What decides is computed in double, from softcapped logits rounded to float.
//
// Source: Gumbel-max, arXiv:1411.0030; Philox, Salmon et al., SC 2011.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace nanochat::engine {

inline constexpr double kMaxTemperature = 5;
inline constexpr double kMinPenalty = 0.1, kMaxPenalty = 10;

struct SamplingParams {
  double temperature = 1.0;  // 0: the likeliest token
  int top_k = 0;             // 0: all
  double top_p = 1.0;
  double min_p = 0.0;               // of the likeliest token's probability
  double repetition_penalty = 1.0;  // divides positive logits of tokens seen, multiplies negative
  int num_logprobs = -1;            // likeliest tokens to report beside the drawn one; -1: none
};

// One token to settle.
struct Draw {
  int row = 0;  // of the logits
  const SamplingParams* params = nullptr;
  uint64_t seed = 0;
  uint64_t sample = 0;            // which of several completions of one prompt
  int64_t position = 0;           // of the token that is drawn; 0 is the first of the prompt
  std::span<const int32_t> seen;  // tokens before it, prompt included: for the penalty
};

struct TokenLogprob {
  int32_t token;
  float logprob;
};

// Log-probabilities are of the softcapped logits, before penalty and temperature.
struct Drawn {
  int32_t token = 0;
  float logprob = 0;              // of the token, if asked for
  std::vector<TokenLogprob> top;  // falling; of equals the lower id first
};

// Room that is used again from draw to draw.
struct SamplerScratch {
  std::vector<float> capped;
  std::vector<int32_t> kept;
  std::vector<int32_t> picks;
  std::vector<int32_t> between;
  std::vector<float> maxima;
  std::vector<double> weights;
  std::vector<bool> is_seen;
};

// Throws std::invalid_argument if a parameter is out of its bounds.
void check_params(const SamplingParams& params);

// The token of `draw` from raw logits; a softcap of 0 is none. A logit of -inf is a token that
// cannot be drawn, and stays so under the softcap.
// Throws std::domain_error if a logit is NaN or +inf, or none is finite; std::invalid_argument or
// std::out_of_range if a parameter or a token seen is out of its bounds.
[[nodiscard]] Drawn sample(std::span<const float> logits, float softcap, const Draw& draw,
                           SamplerScratch& scratch);

}  // namespace nanochat::engine
