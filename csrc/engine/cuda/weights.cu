#include "engine/cuda/weights.h"

#include <cmath>
#include <functional>
#include <utility>

#include "engine/cuda/pack.h"

namespace nanochat::engine::cuda {
namespace {

// What is to be written once all tensors are found and fit.
using Writes = std::vector<std::function<void()>>;

// In place, if there is a place: captured graphs know the address.
template <typename T>
void upload(const std::vector<T>& values, DeviceArray<T>& to) {
  if (to.data() == nullptr) to = DeviceArray<T>(values.size());
  check_cuda(
      cudaMemcpy(to.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
      "engine: upload");
}

void upload_matrix(std::vector<TensorView> parts, Matrix& to, Writes& writes) {
  writes.push_back([parts = std::move(parts), &to] {
    const std::vector<BFloat16> packed = pack(parts);
    to.channels = static_cast<int>(parts.front().sizes[1]);
    to.rows = static_cast<int>(packed.size()) / to.channels;
    upload(packed, to.weights);
  });
}

// A table or head has rows for padding beyond the vocabulary, which are never asked for.
TensorView vocabulary_rows(const Tensors& tensors, const std::string& name, int vocab_size,
                           int64_t channels) {
  TensorView tensor = find_tensor(tensors, name, {kAnyRows, channels});
  check(tensor.sizes[0] >= vocab_size, "engine: ", name, " must have ", vocab_size,
        " rows or more, got ", tensor.sizes[0]);
  tensor.sizes[0] = vocab_size;
  return tensor;
}

void add_rope_tables(const ModelConfig& config, Weights& weights) {
  const int half = config.head_dim / 2;
  std::vector<float> cos(int64_t{config.seq_len} * half), sin(cos.size());
  for (int position = 0; position < config.seq_len; ++position) {
    for (int j = 0; j < half; ++j) {
      const double angle = position * std::pow(config.rope_base, -2.0 * j / config.head_dim);
      cos[int64_t{position} * half + j] = static_cast<float>(std::cos(angle));
      sin[int64_t{position} * half + j] = static_cast<float>(std::sin(angle));
    }
  }
  upload(cos, weights.cos);
  upload(sin, weights.sin);
}

void load_layer(const ModelConfig& config, const Tensors& tensors, int layer, LayerWeights& weights,
                Writes& writes) {
  const int64_t C = config.n_embd, A = int64_t{config.n_head} * config.head_dim;
  const int64_t kv = int64_t{config.n_kv_head} * config.head_dim;
  const std::string block = "transformer.h." + std::to_string(layer);
  const auto matrix = [&](const char* name, int64_t rows, int64_t channels) {
    return find_tensor(tensors, block + name, {rows, channels});
  };
  upload_matrix({matrix(".attn.c_q.weight", A, C), matrix(".attn.c_k.weight", kv, C),
                 matrix(".attn.c_v.weight", kv, C)},
                weights.qkv, writes);
  upload_matrix({matrix(".attn.c_proj.weight", C, A)}, weights.attention_out, writes);
  upload_matrix({matrix(".mlp.c_fc.weight", config.mlp_width, C)}, weights.fc, writes);
  upload_matrix({matrix(".mlp.c_proj.weight", C, config.mlp_width)}, weights.mlp_out, writes);
  if (config.has_value_embedding[layer]) {
    const TensorView gate =
        matrix(".attn.ve_gate.weight", config.n_kv_head, config.ve_gate_channels);
    writes.push_back([gate, &weights] { upload(to_floats(gate), weights.gate); });
    const std::string name = "value_embeds." + std::to_string(layer) + ".weight";
    const TensorView rows = vocabulary_rows(tensors, name, config.vocab_size, kv);
    writes.push_back([rows, &weights] { upload(to_bfloat16s(rows), weights.value_embedding); });
  }
  if (config.use_residual_lambdas) {
    const TensorView own = find_tensor(tensors, "resid_lambdas", {config.n_layer});
    const TensorView first = find_tensor(tensors, "x0_lambdas", {config.n_layer});
    writes.push_back([own, first, layer, &weights] {
      weights.lambda = to_floats(own)[layer];
      weights.lambda0 = to_floats(first)[layer];
    });
  }
}

}  // namespace

void load_weights(const ModelConfig& config, const Tensors& tensors, Weights& weights) {
  Writes writes;
  const TensorView embedding =
      vocabulary_rows(tensors, "transformer.wte.weight", config.vocab_size, config.n_embd);
  writes.push_back([&] { upload(to_bfloat16s(embedding), weights.embedding); });
  upload_matrix({vocabulary_rows(tensors, "lm_head.weight", config.vocab_size, config.n_embd)},
                weights.head, writes);
  weights.layers.resize(config.n_layer);
  for (int layer = 0; layer < config.n_layer; ++layer) {
    load_layer(config, tensors, layer, weights.layers[layer], writes);
  }
  if (config.smear_gate_channels > 0) {
    const TensorView gate =
        find_tensor(tensors, "smear_gate.weight", {1, config.smear_gate_channels});
    const TensorView lambda = find_tensor(tensors, "smear_lambda", {1});
    writes.push_back([gate, lambda, &weights] {
      upload(to_floats(gate), weights.smear_gate);
      weights.smear_lambda = to_floats(lambda)[0];
    });
  }
  if (config.backout_layer >= 0) {
    const TensorView lambda = find_tensor(tensors, "backout_lambda", {1});
    writes.push_back([lambda, &weights] { weights.backout_lambda = to_floats(lambda)[0]; });
  }
  for (const std::function<void()>& write : writes) write();
  if (weights.cos.data() == nullptr) add_rope_tables(config, weights);
}

}  // namespace nanochat::engine::cuda
