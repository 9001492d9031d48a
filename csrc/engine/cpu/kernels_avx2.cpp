#include "engine/cpu/loops.h"

namespace nanochat::engine {

const Kernels& kernels_avx2(Precision precision) {
  return table_of<8, false>(precision);
}

}  // namespace nanochat::engine
