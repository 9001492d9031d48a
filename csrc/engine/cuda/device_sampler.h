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
  // `stride` floats a row of logits; at most `max_seen` tokens seen by a draw, and `max_drawn`
  // tokens fetched at once.
  DeviceSampler(int max_draws, int max_drawn, int vocab_size, int64_t stride, float softcap,
                int max_seen);

  // Waits for the stream. Throws as engine::sample does.
  void sample(const Launcher& where, const float* logits, std::span<const Draw> draws,
              std::span<Drawn> drawn);

  // The same in parts, for steps that follow each other on the device: send what is to be drawn,
  // draw once for each step, `first` being the number of tokens drawn before, and fetch them all.
  // `send` throws std::invalid_argument for parameters out of their bounds, more logprobs than
  // kMaxTop or more tokens seen than max_seen.
  void send(const Launcher& where, std::span<const Draw> draws);
  void draw(const Launcher& where, const float* logits, size_t num_draws, size_t first);
  [[nodiscard]] std::span<const DeviceDrawn> fetch(const Launcher& where, size_t num_drawn);
  // Throws std::domain_error if nothing could be drawn.
  [[nodiscard]] Drawn to_drawn(const DeviceDrawn& from, const Draw& draw) const;

  [[nodiscard]] DeviceDraw* draws() const { return draws_.data(); }
  [[nodiscard]] const DeviceDrawn* drawn() const { return drawn_.data(); }

 private:
  const int max_draws_, vocab_size_, max_seen_;
  const int64_t stride_;
  const float softcap_;
  const DeviceArray<float> values_, scores_;
  const DeviceArray<DeviceDraw> draws_;
  const DeviceArray<int32_t> seen_;
  const DeviceArray<DeviceDrawn> drawn_;
  const PinnedArray<DeviceDraw> host_draws_;
  const PinnedArray<int32_t> host_seen_;
  const PinnedArray<DeviceDrawn> host_drawn_;
};

}  // namespace nanochat::engine::cuda
