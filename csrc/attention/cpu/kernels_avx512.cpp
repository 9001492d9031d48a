#include "attention/cpu/loops.h"

namespace nanochat::attention {

const Kernels& kernels_avx512(DType dtype) {
  return widening_table_of<16>(dtype);
}

}  // namespace nanochat::attention
