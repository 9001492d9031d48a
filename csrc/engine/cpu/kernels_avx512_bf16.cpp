#include "engine/cpu/loops.h"

namespace nanochat::engine {

const Kernels& kernels_avx512_bf16(Precision precision) {
  return table_of<16, true>(precision);
}

}  // namespace nanochat::engine
