#include "attention/cpu/kernels.h"

namespace nanochat::attention {

const Kernels& kernels_base(DType dtype);
#if defined(__x86_64__)
const Kernels& kernels_avx2(DType dtype);
const Kernels& kernels_avx512(DType dtype);
const Kernels& kernels_avx512_bf16();
#endif

const Kernels& kernels(CpuLevel level, DType dtype) {
#if defined(__x86_64__)
  if (dtype != DType::kFloat64) {
    if (level == CpuLevel::kAvx512Bf16 && dtype == DType::kBFloat16) return kernels_avx512_bf16();
    if (level >= CpuLevel::kAvx512) return kernels_avx512(dtype);
    if (level == CpuLevel::kAvx2) return kernels_avx2(dtype);
  }
#endif
  (void)level;
  return kernels_base(dtype);
}

}  // namespace nanochat::attention
