#include "attention/cpu/loops.h"

namespace nanochat::attention {

const Kernels& kernels_avx512_bf16() {
  return table_of<BFloat16, 16, true>();
}

}  // namespace nanochat::attention
