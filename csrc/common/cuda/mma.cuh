// Products on tensor cores (sm_80 and later), and what feeds them: fragments from shared memory,
// shared memory from global memory. The tests put a header of their own in the place of this one,
// to run kernels without a device.
//
// With g = lane / 4 and t = lane % 4, and two 16-bit elements in a register, the lower column or
// row in the lower half, a lane holds of
//   a (16 x 16)   rows g, g + 8 | columns 2t, 2t + 1, and 8 more:
//                 (g, 2t)  (g + 8, 2t)  (g, 2t + 8)  (g + 8, 2t + 8)
//   b (16 x 8)    rows 2t, 2t + 1 | rows 2t + 8, 2t + 9 of column g
//   c (16 x 8)    (g, 2t)  (g, 2t + 1)  (g + 8, 2t)  (g + 8, 2t + 1)
// so c of two products side by side, packed, is the a of the next product.
#pragma once

#include <cstdint>

namespace nanochat::cuda {

// c += a b, sums in fp32.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_fp16(float (&c)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The lower half holds `low`. Rounds to nearest, ties to even.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Four 8 x 8 matrices of 16-bit elements. Lanes 8 m .. 8 m + 7 give the addresses of the rows of
// matrix m, 16 bytes each; r[m] is row g, columns 2t and 2t + 1 of matrix m.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}

// The same of the transposed matrices: r[m] is rows 2t and 2t + 1, column g.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}

// Starts a copy of 16 bytes past the registers and L1; zeros where not `valid`, and then `global`
// is not read. Both addresses are multiples of 16.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}

// Ends a group: the copies that this thread started since the last commit.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until at most the kPending youngest groups of this thread are under way. Other threads see the
// data after a barrier.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// x, of which the compiler then knows nothing: what is computed from it inside of a loop stays
// there, where otherwise every address of an unrolled loop would wait in a register of its own.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// The shared memory whose size the launch gives.
__device__ __forceinline__ char* dynamic_shared() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

}  // namespace nanochat::cuda
