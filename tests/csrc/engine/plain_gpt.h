// The model once more, as plainly as it can be said: in double, one sequence, no cache, no batch.
// What nanochat.model.gpt computes.
#pragma once

#include <cmath>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "engine/model.h"

namespace nanochat::engine {

// Random weights that bf16 can hold, under the names of a checkpoint.
class RandomCheckpoint {
 public:
  RandomCheckpoint(const ModelConfig& config, unsigned seed) : rng_(seed) {
    const int64_t C = config.n_embd, width = int64_t{config.n_head} * config.head_dim;
    const int64_t kv = int64_t{config.n_kv_head} * config.head_dim;
    const int64_t padded = (config.vocab_size + 63) / 64 * 64;
    const auto root = [](int64_t n) { return 1.0 / std::sqrt(static_cast<double>(n)); };
    add("transformer.wte.weight", {padded, C}, 1.0);
    add("lm_head.weight", {padded, C}, 2 * root(C));
    for (int layer = 0; layer < config.n_layer; ++layer) {
      const std::string block = "transformer.h." + std::to_string(layer);
      add(block + ".attn.c_q.weight", {width, C}, root(C));
      add(block + ".attn.c_k.weight", {kv, C}, root(C));
      add(block + ".attn.c_v.weight", {kv, C}, root(C));
      add(block + ".attn.c_proj.weight", {C, width}, root(width));
      add(block + ".mlp.c_fc.weight", {config.mlp_width, C}, root(C));
      add(block + ".mlp.c_proj.weight", {C, config.mlp_width}, root(config.mlp_width));
      if (config.has_value_embedding[layer]) {
        add(block + ".attn.ve_gate.weight", {config.n_kv_head, config.ve_gate_channels}, 0.5);
        add("value_embeds." + std::to_string(layer) + ".weight", {padded, kv}, 0.5);
      }
    }
    if (config.use_residual_lambdas) {
      add("resid_lambdas", {config.n_layer}, 1.0);
      add("x0_lambdas", {config.n_layer}, 1.0);
    }
    if (config.smear_gate_channels > 0) {
      add("smear_gate.weight", {1, config.smear_gate_channels}, 0.5);
      add("smear_lambda", {1}, 1.0);
    }
    if (config.backout_layer >= 0) add("backout_lambda", {1}, 1.0);
  }

  [[nodiscard]] const Tensors& tensors() const { return tensors_; }
  [[nodiscard]] const float* operator[](const std::string& name) const {
    return tensors_.at(name).as<const float>();
  }

 private:
  void add(const std::string& name, const std::vector<int64_t>& shape, double deviation) {
    int64_t size = 1;
    for (const int64_t n : shape) size *= n;
    std::vector<float>& values = memory_.emplace_back(size);
    std::normal_distribution<float> normal(0.0f, static_cast<float>(deviation));
    for (float& x : values) x = to_float(to_bfloat16(normal(rng_)));
    TensorView view{.data = values.data(), .rank = static_cast<int>(shape.size())};
    int64_t stride = 1;
    for (int i = view.rank - 1; i >= 0; stride *= shape[i--]) {
      view.sizes[i] = shape[i];
      view.strides[i] = stride;
    }
    tensors_[name] = view;
  }

  std::mt19937 rng_;
  std::deque<std::vector<float>> memory_;
  Tensors tensors_;
};

class PlainGpt {
 public:
  using Row = std::vector<double>;

  PlainGpt(const ModelConfig& config, const RandomCheckpoint& weights)
      : config_(config), weights_(weights) {}

  // Raw logits after each of the tokens.
  [[nodiscard]] std::vector<Row> logits(const std::vector<int32_t>& tokens) const {
    std::vector<Row> x;
    for (const int32_t token : tokens) {
      x.push_back(normed(row_of("transformer.wte.weight", token, config_.n_embd)));
    }
    if (config_.smear_gate_channels > 0) smear(x);
    const std::vector<Row> x0 = x;
    std::vector<Row> mid;
    for (int layer = 0; layer < config_.n_layer; ++layer) {
      if (config_.use_residual_lambdas) {
        const double a = weights_["resid_lambdas"][layer], b = weights_["x0_lambdas"][layer];
        for (size_t t = 0; t < x.size(); ++t) {
          for (size_t c = 0; c < x[t].size(); ++c) x[t][c] = a * x[t][c] + b * x0[t][c];
        }
      }
      attend(layer, tokens, x);
      for (Row& row : x) {
        const std::string mlp = block(layer) + ".mlp";
        Row h = times(mlp + ".c_fc.weight", config_.mlp_width, normed(row));
        for (double& y : h) y = y > 0 ? y * y : 0;
        add(row, times(mlp + ".c_proj.weight", config_.n_embd, h));
      }
      if (layer == config_.backout_layer) mid = x;
    }
    std::vector<Row> logits;
    for (size_t t = 0; t < x.size(); ++t) {
      if (!mid.empty()) add(x[t], mid[t], -double{*weights_["backout_lambda"]});
      logits.push_back(times("lm_head.weight", config_.vocab_size, normed(x[t])));
    }
    return logits;
  }

 private:
  static std::string block(int layer) { return "transformer.h." + std::to_string(layer); }

  [[nodiscard]] Row row_of(const std::string& table, int32_t i, int64_t size) const {
    const float* row = weights_[table] + i * size;
    return {row, row + size};
  }

  [[nodiscard]] Row times(const std::string& matrix, int num_rows, const Row& x) const {
    Row y(num_rows);
    const float* w = weights_[matrix];
    for (double& sum : y) {
      for (const double value : x) sum += *w++ * value;
    }
    return y;
  }

  static void add(Row& x, const Row& y, double factor = 1) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += factor * y[i];
  }

  [[nodiscard]] Row normed(Row x) const {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double size = static_cast<double>(x.size());
    for (double& value : x) value /= std::sqrt(squares / size + double{config_.norm_eps});
    return x;
  }

  static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

  void smear(std::vector<Row>& x) const {
    const std::vector<Row> before = x;
    for (size_t t = 1; t < x.size(); ++t) {
      double logit = 0;
      for (int c = 0; c < config_.smear_gate_channels; ++c) {
        logit += weights_["smear_gate.weight"][c] * before[t][c];
      }
      add(x[t], before[t - 1], *weights_["smear_lambda"] * sigmoid(logit));
    }
  }

  // Heads of W x, one after another.
  [[nodiscard]] std::vector<Row> heads(const std::string& matrix, int count, const Row& x) const {
    const int D = config_.head_dim;
    const Row y = times(matrix, count * D, x);
    std::vector<Row> rows;
    for (int h = 0; h < count; ++h) rows.emplace_back(y.begin() + h * D, y.begin() + (h + 1) * D);
    return rows;
  }

  [[nodiscard]] Row rotated_and_normed(Row x, size_t position) const {
    const int half = config_.head_dim / 2;
    for (int j = 0; j < half; ++j) {
      const double angle =
          static_cast<double>(position) * std::pow(config_.rope_base, -2.0 * j / config_.head_dim);
      const double a = x[j], b = x[j + half];
      x[j] = a * std::cos(angle) + b * std::sin(angle);
      x[j + half] = b * std::cos(angle) - a * std::sin(angle);
    }
    x = normed(x);
    for (double& value : x) value *= double{config_.qk_scale};
    return x;
  }

  void attend(int layer, const std::vector<int32_t>& tokens, std::vector<Row>& x) const {
    const std::string attn = block(layer) + ".attn";
    const int D = config_.head_dim, ratio = config_.n_head / config_.n_kv_head;
    std::vector<std::vector<Row>> keys, values;
    for (size_t t = 0; t < x.size(); ++t) {
      const Row in = normed(x[t]);
      std::vector<Row> q = heads(attn + ".c_q.weight", config_.n_head, in);
      keys.push_back(heads(attn + ".c_k.weight", config_.n_kv_head, in));
      values.push_back(heads(attn + ".c_v.weight", config_.n_kv_head, in));
      for (Row& row : q) row = rotated_and_normed(row, t);
      for (Row& row : keys.back()) row = rotated_and_normed(row, t);
      if (config_.has_value_embedding[layer]) add_value_embedding(layer, tokens[t], in, values[t]);
      const int window = config_.windows[layer];
      const size_t first = window < 0 || t < static_cast<size_t>(window) ? 0 : t - window;
      Row out;
      for (int h = 0; h < config_.n_head; ++h) {
        Row sum(D);
        double weight = 0;
        for (size_t s = first; s <= t; ++s) {
          double score = 0;
          for (int d = 0; d < D; ++d) score += q[h][d] * keys[s][h / ratio][d];
          const double p = std::exp(score / std::sqrt(static_cast<double>(D)));
          weight += p;
          add(sum, values[s][h / ratio], p);
        }
        for (const double value : sum) out.push_back(value / weight);
      }
      add(x[t], times(attn + ".c_proj.weight", config_.n_embd, out));
    }
  }

  void add_value_embedding(int layer, int32_t token, const Row& in,
                           std::vector<Row>& values) const {
    const int D = config_.head_dim, channels = config_.ve_gate_channels;
    const Row ve = row_of("value_embeds." + std::to_string(layer) + ".weight", token,
                          int64_t{config_.n_kv_head} * D);
    for (int h = 0; h < config_.n_kv_head; ++h) {
      double logit = 0;
      for (int c = 0; c < channels; ++c) {
        logit += weights_[block(layer) + ".attn.ve_gate.weight"][h * channels + c] * in[c];
      }
      for (int d = 0; d < D; ++d) values[h][d] += 3 * sigmoid(logit) * ve[h * D + d];
    }
  }

  const ModelConfig& config_;
  const RandomCheckpoint& weights_;
};

}  // namespace nanochat::engine
