// The engine's model on a CUDA device; README.md says how it is cut.
#pragma once

#include <memory>

#include "engine/model.h"

namespace nanochat::engine {

// `max_tokens` of one forward. Weights are taken in bf16.
// Throws std::invalid_argument if config and tensors disagree, Unsupported for a shape or a device
// that the kernels do not serve and in a build without CUDA, CudaError if memory does not suffice.
[[nodiscard]] std::unique_ptr<Model> make_cuda_model(const ModelConfig& config,
                                                     const Tensors& tensors, int num_pages,
                                                     int max_tokens, int device);

}  // namespace nanochat::engine
