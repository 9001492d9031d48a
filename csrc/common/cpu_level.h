// Run-time choice of the instruction set. A loop is written once, over the vectors of simd.h, and
// compiled three times; no file needs flags of its own, and the binary runs on any x86-64.
#pragma once

#include <type_traits>

namespace nanochat {

// Stands behind the parameters of a lambda that runs, or is called, inside run_at_level.
#define NANOCHAT_INLINE_LAMBDA __attribute__((always_inline))

// Those of run_at_level know no kAvx512Bf16 and run at kAvx512 instead; files that are compiled for
// each level (cmake/NanochatLevels.cmake) may have all four.
enum class CpuLevel : int { kBase = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

// The best level that this machine runs.
[[nodiscard]] inline CpuLevel best_cpu_level() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")
               ? CpuLevel::kAvx512Bf16
               : CpuLevel::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return CpuLevel::kAvx2;
#endif
  return CpuLevel::kBase;
}

#if defined(__x86_64__)
template <typename Body>
[[gnu::target("avx2,fma"), gnu::noinline]] void run_avx2(const Body& body) {
  body(std::integral_constant<int, 8>{});
}

template <typename Body>
[[gnu::target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"), gnu::noinline]] void run_avx512(
    const Body& body) {
  body(std::integral_constant<int, 16>{});
}
#endif

// Calls body(N) compiled for `level`, N being how many fp32 a register has there. The body and all
// it calls must be always_inline: the code of another level cannot be called, only inlined.
template <typename Body>
void run_at_level(CpuLevel level, const Body& body) {
#if defined(__x86_64__)
  if (level >= CpuLevel::kAvx512) return run_avx512(body);
  if (level == CpuLevel::kAvx2) return run_avx2(body);
#endif
  (void)level;
  body(std::integral_constant<int, 4>{});
}

}  // namespace nanochat
