// The instructions of sm_90a that CUDA C++ has no words for: barriers that count bytes, the tensor
// copy engine, matrix multiplication by warpgroups of 128 threads. One wrapper for each, no policy.
// The tests put a header of their own in the place of this one, to run kernels without a device.
//
// Two proxies look at shared memory: ordinary loads and stores, and the asynchronous one of the
// copy engine and of wgmma. What the first wrote, the second sees only after fence_async_proxy()
// and a barrier. Source: PTX ISA 8.0 and later.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "common/cuda/mma.cuh"
#include "common/cuda/sw128.h"

namespace nanochat::cuda {

inline constexpr int kWarpgroup = 128;
inline constexpr int kMaxSharedBytesSm90 = 227 * 1024;

// The dynamic shared memory from its first multiple of kSwizzleBytes on: ask for as much more.
__device__ __forceinline__ uint8_t* swizzle_aligned_shared() {
  uint8_t* const p = reinterpret_cast<uint8_t*>(dynamic_shared());
  return p + (kSwizzleBytes - shared_address(p) % kSwizzleBytes) % kSwizzleBytes;
}

// Which warpgroup of the block this thread is in, as a value that the compiler knows to be the same
// in a warp, so that the roles are branches that it knows not to diverge.
__device__ __forceinline__ int warpgroup_index() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
}

// ---- mbarrier: a phase ends when `count` arrivals and all expected bytes are in.

__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
}

// Before the __syncthreads() after which others, the copy engine among them, use the barriers.
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// Arrives, and lets the phase wait for `bytes` more of TMA.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Until the phase of this parity has ended. The first phase has parity 0; before it ends, a wait
// for parity 1 returns at once.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// ---- TMA: one thread copies a box of a tensor of rank 4. Outside of the tensor a load gives zeros
// and a store does nothing.

__device__ __forceinline__ void tma_load(void* shared, const CUtensorMap* map, uint64_t* barrier,
                                         int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

__device__ __forceinline__ void tma_store(const CUtensorMap* map, const void* shared, int c0,
                                          int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group "
      "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
      "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// Adds `bytes` of fp32 in shared memory to global memory, each number by itself, in no order among
// additions. By one thread; both addresses and `bytes` are multiples of 16.
__device__ __forceinline__ void bulk_add(float* global, const float* shared, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(global)),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}

// Closes a group of what this thread stored and added.
__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until what the groups of this thread send has been read; where it goes may still be as it was.
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// Until all stores and additions of this thread are in global memory.
__device__ __forceinline__ void tma_store_finish() {
  asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
}

// An ordinary store of 16 bytes that the copy engine will read; here for the tests to see.
__device__ __forceinline__ void store_staged(float* shared, float x, float y, float z, float w) {
  *reinterpret_cast<float4*>(shared) = {x, y, z, w};
}

// ---- Order among threads.

__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Named barriers, 1 to 15; 0 is that of __syncthreads(). `threads` counts those that sync and those
// that only arrive.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Registers per thread of this warpgroup, from here on; a multiple of 8. All its warps must call.
template <int kRegisters>
__device__ __forceinline__ void release_registers_to() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void claim_registers_to() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- wgmma: c (64 x kN) += a (64 x 16) b (16 x kN), bf16 with fp32 sums. With warp w of the
// warpgroup, g = lane / 4 and t = lane % 4, a thread holds of c
//   c[4 j + 0 .. 1]   row 16 w + g,      columns 8 j + 2 t, + 1
//   c[4 j + 2 .. 3]   row 16 w + g + 8,  the same columns
// and of a, if that is in registers, rows g, g + 8 at columns 2 t, + 1, then both at 2 t + 8, + 9.

// Ties accumulators to a point in the program: the compiler moves no access to them across it.
template <int kSize>
__device__ __forceinline__ void pin(float (&c)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

template <int kRows, int kSize>
__device__ __forceinline__ void pin(uint32_t (&a)[kRows][kSize]) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kSize; ++j) asm volatile("" : "+r"(a[i][j])::"memory");
  }
}

// Before the first wgmma that touches these registers after ordinary code did.
template <typename... Registers>
__device__ __forceinline__ void wgmma_fence(Registers&... registers) {
  (pin(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Closes a group of what was issued.
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most kPending groups are under way. `registers` are those that the finished ones owned.
template <int kPending, typename... Registers>
__device__ __forceinline__ void wgmma_wait(Registers&... registers) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  (pin(registers), ...);
}

enum class Major : int { kK = 0, kMN = 1 };  // which dimension of a or b is contiguous

#define NANOCHAT_F4(c, i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define NANOCHAT_F16(c, i) \
  NANOCHAT_F4(c, i), NANOCHAT_F4(c, i + 4), NANOCHAT_F4(c, i + 8), NANOCHAT_F4(c, i + 12)
#define NANOCHAT_C16 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}"
#define NANOCHAT_C32                                                                       \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define NANOCHAT_C64                                                                       \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "  \
  "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "  \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

// a and b by descriptor. Without `accumulate`, c is not read.
template <int kN, Major kMajorB, Major kMajorA = Major::kK>
__device__ __forceinline__ void wgmma(float (&c)[kN / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(kN == 32 || kN == 64 || kN == 128);
  if constexpr (kN == 32) {
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.ne.b32 add, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 " NANOCHAT_C16
        ", %16, %17, add, 1, 1, %19, %20;\n"
        "}\n"
        : NANOCHAT_F16(c, 0)
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(static_cast<int>(kMajorA)),
          "n"(static_cast<int>(kMajorB)));
  } else if constexpr (kN == 64) {
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.ne.b32 add, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NANOCHAT_C32
        ", %32, %33, add, 1, 1, %35, %36;\n"
        "}\n"
        : NANOCHAT_F16(c, 0), NANOCHAT_F16(c, 16)
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(static_cast<int>(kMajorA)),
          "n"(static_cast<int>(kMajorB)));
  } else {
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.ne.b32 add, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " NANOCHAT_C64
        ", %64, %65, add, 1, 1, %67, %68;\n"
        "}\n"
        : NANOCHAT_F16(c, 0), NANOCHAT_F16(c, 16), NANOCHAT_F16(c, 32), NANOCHAT_F16(c, 48)
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(static_cast<int>(kMajorA)),
          "n"(static_cast<int>(kMajorB)));
  }
}

// a in registers, which stay as they are until the group has ended.
template <int kN, Major kMajorB>
__device__ __forceinline__ void wgmma(float (&c)[kN / 2], const uint32_t (&a)[4], uint64_t b,
                                      bool accumulate) {
  static_assert(kN == 64 || kN == 128);
  if constexpr (kN == 64) {
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NANOCHAT_C32
        ", {%32, %33, %34, %35}, %36, add, 1, 1, %38;\n"
        "}\n"
        : NANOCHAT_F16(c, 0), NANOCHAT_F16(c, 16)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),
          "n"(static_cast<int>(kMajorB)));
  } else {
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.ne.b32 add, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " NANOCHAT_C64
        ", {%64, %65, %66, %67}, %68, add, 1, 1, %70;\n"
        "}\n"
        : NANOCHAT_F16(c, 0), NANOCHAT_F16(c, 16), NANOCHAT_F16(c, 32), NANOCHAT_F16(c, 48)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),
          "n"(static_cast<int>(kMajorB)));
  }
}

#undef NANOCHAT_C64
#undef NANOCHAT_C32
#undef NANOCHAT_C16
#undef NANOCHAT_F16
#undef NANOCHAT_F4

// Four 8 x 8 matrices of bf16, lane l at the row l % 8 of matrix l / 8; r[i] holds of matrix i the
// row lane / 4, columns 2 (lane % 4), + 1.
__device__ __forceinline__ void stmatrix_x4(void* row, const uint32_t (&r)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
}

}  // namespace nanochat::cuda
