// What the sampler does to a whole row of logits, in vectors of the instruction level. Rows are
// free of NaN, but for max_of; -inf is a token that cannot be drawn.
#pragma once

#include <cstdint>
#include <span>

#include "common/cpu_level.h"

namespace nanochat::engine {

struct Largest {
  float value;
  bool is_sound;  // no logit is NaN or +inf
};
[[nodiscard]] Largest max_of(CpuLevel level, std::span<const float> logits);

// The first i with logits[i] == max, the largest of them.
[[nodiscard]] int32_t index_of_max(CpuLevel level, std::span<const float> logits, float max);

// cap * tanh(logit / cap), computed in double: rounded once and never falling; -inf stays.
void softcap(CpuLevel level, std::span<const float> logits, float cap, float* capped);

// maxima[j]: of logits j, j + G, j + 2 G, ... for G = maxima.size() <= logits.size().
void maxima_of_groups(CpuLevel level, std::span<const float> logits, std::span<float> maxima);

// Writes the i with logits[i] >= threshold in rising order; returns how many. `picks` has room for
// as many as there are logits.
[[nodiscard]] int64_t pick_from(CpuLevel level, std::span<const float> logits, float threshold,
                                int32_t* picks);

// sum_i exp(logits[i] - max), relative error 2e-6 at most.
[[nodiscard]] double sum_of_exp(CpuLevel level, std::span<const float> logits, float max);

// weights[i] = exp((logits[i] - max) / temperature), to the last bits of a double; 3e-308 at least.
// Returns their sum.
[[nodiscard]] double weights_of(CpuLevel level, std::span<const float> logits, float max,
                                double temperature, double* weights);

// The sum of weights[i] where logits[i] >= threshold; never more for a higher threshold.
[[nodiscard]] double mass_from(CpuLevel level, std::span<const float> logits, const double* weights,
                               float threshold);

// Writes the i, in rising order, for which
//   high_bits[i] * 2^-31 <= exp((logits[i] - max) * inv_temperature) * bound
// may hold: none is missed, and one in a thousand more may be named. Returns how many.
[[nodiscard]] int64_t pick_candidates(CpuLevel level, std::span<const float> logits, float max,
                                      float inv_temperature, const int32_t* high_bits, float bound,
                                      int32_t* picks);

}  // namespace nanochat::engine
