#include "engine/cuda/weights.h"

#include <cmath>

#include "engine/cuda/pack.h"

namespace nanochat::engine::cuda {
namespace {

template <typename T>
DeviceArray<T> upload(const std::vector<T>& values) {
  return DeviceArray<T>(std::span<const T>(values));
}

Matrix upload_matrix(std::initializer_list<TensorView> parts) {
  const std::vector<BFloat16> packed = pack(parts);
  const int channels = static_cast<int>(parts.begin()->sizes[1]);
  return {upload(packed), static_cast<int>(packed.size()) / channels, channels};
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
  weights.cos = upload(cos);
  weights.sin = upload(sin);
}

LayerWeights load_layer(const ModelConfig& config, const Tensors& tensors, int layer) {
  const int64_t C = config.n_embd, A = int64_t{config.n_head} * config.head_dim;
  const int64_t kv = int64_t{config.n_kv_head} * config.head_dim;
  const std::string block = "transformer.h." + std::to_string(layer);
  const auto matrix = [&](const char* name, int64_t rows, int64_t channels) {
    return find_tensor(tensors, block + name, {rows, channels});
  };
  LayerWeights weights;
  weights.qkv = upload_matrix({matrix(".attn.c_q.weight", A, C), matrix(".attn.c_k.weight", kv, C),
                               matrix(".attn.c_v.weight", kv, C)});
  weights.attention_out = upload_matrix({matrix(".attn.c_proj.weight", C, A)});
  weights.fc = upload_matrix({matrix(".mlp.c_fc.weight", config.mlp_width, C)});
  weights.mlp_out = upload_matrix({matrix(".mlp.c_proj.weight", C, config.mlp_width)});
  if (config.has_value_embedding[layer]) {
    weights.gate = upload(
        to_floats(matrix(".attn.ve_gate.weight", config.n_kv_head, config.ve_gate_channels)));
    const std::string name = "value_embeds." + std::to_string(layer) + ".weight";
    weights.value_embedding =
        upload(to_bfloat16s(vocabulary_rows(tensors, name, config.vocab_size, kv)));
  }
  if (config.use_residual_lambdas) {
    weights.lambda = to_floats(find_tensor(tensors, "resid_lambdas", {config.n_layer}))[layer];
    weights.lambda0 = to_floats(find_tensor(tensors, "x0_lambdas", {config.n_layer}))[layer];
  }
  return weights;
}

}  // namespace

Weights load_weights(const ModelConfig& config, const Tensors& tensors) {
  const auto table = [&](const char* name) {
    return vocabulary_rows(tensors, name, config.vocab_size, config.n_embd);
  };
  Weights weights;
  weights.embedding = upload(to_bfloat16s(table("transformer.wte.weight")));
  weights.head = upload_matrix({table("lm_head.weight")});
  for (int layer = 0; layer < config.n_layer; ++layer) {
    weights.layers.push_back(load_layer(config, tensors, layer));
  }
  if (config.smear_gate_channels > 0) {
    weights.smear_gate = upload(
        to_floats(find_tensor(tensors, "smear_gate.weight", {1, config.smear_gate_channels})));
    weights.smear_lambda = to_floats(find_tensor(tensors, "smear_lambda", {1}))[0];
  }
  if (config.backout_layer >= 0) {
    weights.backout_lambda = to_floats(find_tensor(tensors, "backout_lambda", {1}))[0];
  }
  add_rope_tables(config, weights);
  return weights;
}

}  // namespace nanochat::engine::cuda
