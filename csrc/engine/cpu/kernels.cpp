#include "engine/cpu/kernels.h"

#include "common/check.h"
#include "common/cpu_level.h"

namespace nanochat::engine {

const Kernels& kernels_base(Precision precision);
#if defined(__x86_64__)
const Kernels& kernels_avx2(Precision precision);
const Kernels& kernels_avx512(Precision precision);
const Kernels& kernels_avx512_bf16(Precision precision);
#endif

Isa best_isa() {
  return static_cast<Isa>(best_cpu_level());  // the same levels
}

const Kernels& kernels(Isa isa, Precision precision) {
  if (isa > best_isa()) {
    throw Unsupported(concat("engine: this machine has instruction level ",
                             static_cast<int>(best_isa()), ", got ", static_cast<int>(isa)));
  }
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512Bf16:
      return kernels_avx512_bf16(precision);
    case Isa::kAvx512:
      return kernels_avx512(precision);
    case Isa::kAvx2:
      return kernels_avx2(precision);
#endif
    default:
      return kernels_base(precision);
  }
}

}  // namespace nanochat::engine
