// What CUDA devices there are. Answers on a machine without a driver, too, and in a build without
// CUDA (csrc/no_cuda).
#pragma once

namespace nanochat::cuda {

struct Capability {
  int major = 0;
  int minor = 0;
};

extern const bool kBuilt;

// 0 without a driver, without a device, or with a driver older than the runtime.
[[nodiscard]] int device_count();

[[nodiscard]] Capability capability(int device);

}  // namespace nanochat::cuda
