// Special functions at the speed of the hardware. The tests put a header of their own in the place
// of this one, to run kernels without a device.
#pragma once

namespace nanochat::cuda {

// 2^x to 2 units in the last place; 0 where the result would be subnormal, and for -infinity.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace nanochat::cuda
