// Models of three layers that differ in all that an architecture may have, small enough for
// thousands of tokens in a second.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "engine/model.h"

namespace nanochat::engine {

// Windows end within a page and at its edge; the vocabulary is no multiple of a block of columns.
inline ModelConfig tiny_modern() {
  return {.n_layer = 3,
          .n_head = 4,
          .n_kv_head = 2,
          .head_dim = 16,
          .n_embd = 64,
          .mlp_width = 128,
          .vocab_size = 70,
          .seq_len = 200,
          .rope_base = 100000,
          .norm_eps = 0x1p-23f,
          .qk_scale = 1.2f,
          .softcap = 15,
          .windows = {5, 64, -1},
          .has_value_embedding = {true, false, true},
          .ve_gate_channels = 12,
          .smear_gate_channels = 24,
          .backout_layer = 1,
          .use_residual_lambdas = true};
}

inline ModelConfig tiny_classic() {
  return {.n_layer = 3,
          .n_head = 4,
          .n_kv_head = 2,
          .head_dim = 16,
          .n_embd = 64,
          .mlp_width = 256,
          .vocab_size = 64,
          .seq_len = 200,
          .rope_base = 10000,
          .norm_eps = 0x1p-23f,
          .softcap = 15,
          .windows = {-1, -1, -1},
          .has_value_embedding = {false, false, false}};
}

inline std::vector<int32_t> random_tokens(size_t size, int vocab_size, std::mt19937& rng) {
  std::vector<int32_t> tokens(size);
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng() % vocab_size);
  return tokens;
}

}  // namespace nanochat::engine
