#include "engine/cpu/loops.h"

namespace nanochat::engine {

const Kernels& kernels_base(Precision precision) {
  return table_of<4, false>(precision);
}

}  // namespace nanochat::engine
