#include "common/cuda/device.h"

#include "common/cuda/launch.h"

namespace nanochat::cuda {

const bool kBuilt = true;

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

Capability capability(int device) {
  Capability capability;
  check_cuda(cudaDeviceGetAttribute(&capability.major, cudaDevAttrComputeCapabilityMajor, device),
             "compute capability");
  check_cuda(cudaDeviceGetAttribute(&capability.minor, cudaDevAttrComputeCapabilityMinor, device),
             "compute capability");
  return capability;
}

}  // namespace nanochat::cuda
