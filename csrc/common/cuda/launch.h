// Host side of a kernel launch: the device of the caller's tensors, and errors as exceptions.
#pragma once

#include <cuda_runtime.h>

#include "common/check.h"
#include "common/placement.h"

namespace nanochat::cuda {

inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw CudaError(concat(what, ": ", cudaGetErrorString(status)));
}

// Makes `device` current for the length of a scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check_cuda(cudaGetDevice(&previous_), "cudaGetDevice");
    if (device != previous_) check_cuda(cudaSetDevice(device), "cudaSetDevice");
  }
  ~DeviceGuard() { cudaSetDevice(previous_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
};

[[nodiscard]] inline cudaStream_t stream_of(const Placement& where) {
  return static_cast<cudaStream_t>(where.stream);
}

}  // namespace nanochat::cuda
