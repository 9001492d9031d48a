#include "attention/cpu/loops.h"

namespace nanochat::attention {

const Kernels& kernels_avx2(DType dtype) {
  return widening_table_of<8>(dtype);
}

}  // namespace nanochat::attention
