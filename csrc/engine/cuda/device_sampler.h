// Draws on their way to the device and back.
#pragma once

#include <span>
#include <vector>

#include "engine/cuda/handles.h"
#include "engine/cuda/kernels.h"
#include "engine/sampler.h"

namespace nanochat::engine::cuda {

class DeviceSampler {
 public:
  // `stride` floats a row of logits; at most `max_seen` tokens seen by a draw.
  DeviceSampler(int max_draws, int vocab_size, int64_t stride, int max_seen);

  // Waits for the stream. Throws as engine::sample does, and std::invalid_argument for more
  // logprobs than kMaxTop or more tokens seen than max_seen.
  void sample(const Launcher& where, const float* logits, float softcap,
              std::span<const Draw> draws, std::span<Drawn> drawn);

 private:
  void sample_some(const Launcher& where, const float* logits, float softcap,
                   std::span<const Draw> draws, std::span<Drawn> drawn);

  const int max_draws_, vocab_size_, max_seen_;
  const int64_t stride_;
  const DeviceArray<float> values_, scores_;
  const DeviceArray<DeviceDraw> draws_;
  const DeviceArray<int32_t> seen_;
  const DeviceArray<DeviceDrawn> drawn_;
  const PinnedArray<DeviceDraw> host_draws_;
  const PinnedArray<int32_t> host_seen_;
  const PinnedArray<DeviceDrawn> host_drawn_;
};

}  // namespace nanochat::engine::cuda
