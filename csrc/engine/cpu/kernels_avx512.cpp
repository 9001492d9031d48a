#include "engine/cpu/loops.h"

namespace nanochat::engine {

const Kernels& kernels_avx512(Precision precision) {
  return table_of<16, false>(precision);
}

}  // namespace nanochat::engine
