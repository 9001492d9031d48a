// Rows of D elements, as the pre-pass and the attention behind it take them.
#pragma once

#include <initializer_list>

#include "common/tensor_view.h"

namespace nanochat::attention {

struct Named {
  const char* name;
  const TensorView& view;
};

inline void check_rows(std::initializer_list<Named> rows, std::initializer_list<int64_t> shape,
                       DType dtype) {
  for (const auto& [name, view] : rows) {
    check_shape(name, view, shape);
    check_dtype(name, view, dtype);
    check_last_contiguous(name, view);
  }
}

}  // namespace nanochat::attention
