// The instructions that CUDA C++ has no words for. The tests put a header of their own in the place
// of this one, to run the kernels without a device.
#pragma once

#include <cstdint>

namespace nanochat::engine::cuda {

// c (16 x 8) += a (16 x 16) b (16 x 8), bf16 with fp32 sums. With g = lane / 4 and t = lane % 4 a
// lane holds
//   a   rows g, g + 8 | columns 2t, 2t + 1 and then 2t + 8, 2t + 9: (g, low) (g + 8, low) (g, high)
//       (g + 8, high)
//   b   rows 2t, 2t + 1 and 2t + 8, 2t + 9 | column g
//   c   rows g, g + 8 | columns 2t, 2t + 1
__device__ __forceinline__ void mma_16x8x16(float (&c)[4], const uint4& a, uint32_t b_low,
                                            uint32_t b_high) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b_low), "r"(b_high));
}

// Weights: read once a step, never written, so they may be asked for before wait_for_previous and
// need no place in L1.
__device__ __forceinline__ uint4 load_weights(const uint4* p) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(p));
  return x;
}

// What an earlier kernel wrote: not through the read-only path, which that kernel's overlap with
// this one would make stale.
__device__ __forceinline__ uint4 load_written(const void* p) {
  uint4 x;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(p)
               : "memory");
  return x;
}

// Programmatic dependent launch: the next kernel of the stream may start while this one runs ...
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ... so each kernel calls this before it touches memory that a kernel writes. Returns when all
// kernels before have ended and their writes can be seen. A kernel that never calls it breaks the
// chain for those after it.
__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace nanochat::engine::cuda
