// Where a call runs: on host threads, or on a CUDA device in the order of a stream.
#pragma once

#include "common/cpu_level.h"

namespace nanochat {

struct Placement {
  bool is_cuda = false;
  int num_threads = 1;
  CpuLevel cpu_level = CpuLevel::kBase;
  int device = 0;
  void* stream = nullptr;  // cudaStream_t, borrowed
  // The device is sm_90 and the kernels for sm_90a are wanted; false where they failed their probe
  // (ops/probes.py) or a test asks for the portable ones.
  bool allow_hopper = false;
};

}  // namespace nanochat
