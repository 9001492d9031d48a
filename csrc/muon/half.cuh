// fp16 in registers: pairs of it, as mma.cuh wants them, and single elements. The tests put a
// header of their own in the place of this one.
#pragma once

#include <cstdint>

namespace nanochat::muon {

// The lower half holds `low`. Rounds to nearest, ties to even.
__device__ __forceinline__ uint32_t pack_fp16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ __forceinline__ float from_fp16(uint16_t x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}

}  // namespace nanochat::muon
