#include "attention/cpu/loops.h"

namespace nanochat::attention {

const Kernels& kernels_base(DType dtype) {
  return dtype == DType::kFloat64 ? table_of<double, 1, false>() : widening_table_of<4>(dtype);
}

}  // namespace nanochat::attention
