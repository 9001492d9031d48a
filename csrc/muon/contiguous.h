// A rule that both optimizers have for all of their tensors.
#pragma once

#include "common/tensor_view.h"

namespace nanochat::muon {

// Elements stand one after the other, the last dimension fastest.
inline void check_contiguous(const char* who, const TensorView& view) {
  int64_t expected = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    check(view.sizes[i] <= 1 || view.strides[i] == expected, who,
          " must be contiguous, got stride ", view.strides[i], " in dimension ", i, " of ",
          view.shape());
    expected *= view.sizes[i];
  }
}

}  // namespace nanochat::muon
