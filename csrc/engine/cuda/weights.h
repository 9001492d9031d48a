// A checkpoint on the device: matrices packed for the kernels, tables as they are, in bf16.
#pragma once

#include <vector>

#include "engine/cuda/handles.h"
#include "engine/cuda/kernels.h"
#include "engine/model.h"

namespace nanochat::engine::cuda {

struct Matrix {
  DeviceArray<BFloat16> weights;
  int rows = 0;  // with padding
  int channels = 0;

  [[nodiscard]] Gemm times(const BFloat16* activations) const {
    return {reinterpret_cast<const uint4*>(weights.data()), activations, rows, channels};
  }
};

struct LayerWeights {
  Matrix qkv, attention_out, fc, mlp_out;
  DeviceArray<float> gate;                // empty without value embedding
  DeviceArray<BFloat16> value_embedding;  // the same
  float lambda = 1, lambda0 = 0;
};

struct Weights {
  DeviceArray<BFloat16> embedding;
  DeviceArray<float> smear_gate;
  float smear_lambda = 0, backout_lambda = 0;
  std::vector<LayerWeights> layers;
  Matrix head;
  DeviceArray<float> cos, sin;
};

// To the current device; into the memory that `weights` has, if it has been loaded before. Throws
// std::invalid_argument for a tensor that is missing or of another shape than the config's.
void load_weights(const ModelConfig& config, const Tensors& tensors, Weights& weights);

}  // namespace nanochat::engine::cuda
