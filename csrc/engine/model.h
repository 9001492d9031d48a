// What the engine asks of a model, on whatever device it lives. The engine owns sequences, pages
// and the order of things; a model owns weights, the memory behind the pages, and arithmetic.
//
// Sameness: the logits of a position depend on the tokens up to it, the weights and the instruction
// level alone: not on how the tokens were cut into chunks, what else is in the batch, or threads.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/tensor_view.h"
#include "engine/sampler.h"

namespace nanochat::engine {

inline constexpr int kPageTokens = 64;

// GPTConfig of nanochat.model in plain numbers; what its fields mean is said there.
struct ModelConfig {
  int n_layer = 0, n_head = 0, n_kv_head = 0, head_dim = 0, n_embd = 0, mlp_width = 0;
  int vocab_size = 0, seq_len = 0;
  double rope_base = 0;
  float norm_eps = 0, qk_scale = 1, softcap = 0;
  std::vector<int> windows;               // for each layer: keys visible to the left, -1 for all
  std::vector<bool> has_value_embedding;  // for each layer
  int ve_gate_channels = 0;
  int smear_gate_channels = 0;  // 0: no smear
  int backout_layer = -1;       // -1: no backout
  bool use_residual_lambdas = false;
};

// The tensors of a checkpoint by their state-dict names, fp32 or bf16, contiguous, borrowed.
using Tensors = std::map<std::string, TensorView>;

// Consecutive tokens of one sequence, to be computed in one step.
struct Chunk {
  std::span<const int32_t> tokens;  // at least one
  int32_t position = 0;             // of the first of them, from 0
  int32_t previous = -1;            // the token before it; -1 at position 0
  std::span<const int32_t> pages;   // of the sequence: token t lives in pages[t / kPageTokens]
  int32_t num_logits = 0;           // of how many of the last tokens logits are wanted
};

class Model {
 public:
  virtual ~Model() = default;

  // Writes keys and values of all tokens to their pages and computes the logits that are wanted,
  // in the order of chunks and tokens. Chunks are of different sequences.
  virtual void forward(std::span<const Chunk> chunks) = 0;

  // Raw logits (vocab_size) of the last forward, before the softcap; valid until the next.
  [[nodiscard]] virtual std::span<const float> logits(int row) = 0;

  // Settles one token for each draw, from the logits of the last forward.
  virtual void sample(std::span<const Draw> draws, std::span<Drawn> drawn) = 0;

  // Lets sequences that compute one token each go on by themselves: chunk i draws num_steps tokens,
  // every one of them computed next but the last. draws[i] is the first, of row i and without a
  // penalty; drawn[i * num_steps + k] is that of step k. Pages must hold all that is computed.
  // By definition so many forwards and samples; a device is spared the way to the host between
  // them.
  virtual void decode(std::span<const Chunk> chunks, std::span<const Draw> draws, int num_steps,
                      std::span<Drawn> drawn);

  virtual void copy_page(int32_t from, int32_t to) = 0;

  // Other weights of the same config, into the memory of those before. Throws
  // std::invalid_argument for tensors that are missing or of another shape; nothing is changed
  // then.
  virtual void load(const Tensors& tensors) = 0;
};

}  // namespace nanochat::engine
