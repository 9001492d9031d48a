// Rows of a tensor on the device, and on the host whether they begin where vectors do.
#pragma once

#include "common/cuda/vector.cuh"
#include "common/tensor_view.h"

namespace nanochat::attention {

// (B, T, H, D), or (B, T, H) with one number to a row. A table (B, T, D / 2) has rows of head 0.
template <typename T>
struct Rows {
  T* data;
  int64_t batch, token, head;  // strides

  __device__ __forceinline__ T* at(int64_t b, int64_t t, int64_t h) const {
    return data + b * batch + t * token + h * head;
  }
};

template <typename T>
[[nodiscard]] Rows<T> rows_of(const TensorView& view) {
  return {view.as<T>(), view.strides[0], view.strides[1], view.strides[2]};
}

// Whether every row of bf16 or fp32 begins at a multiple of 16 bytes.
[[nodiscard]] inline bool has_aligned_rows(const TensorView& view) {
  const int64_t step =
      view.dtype == DType::kBFloat16 ? cuda::kVectorSize<BFloat16> : cuda::kVectorSize<float>;
  bool is_aligned = reinterpret_cast<uintptr_t>(view.data) % cuda::kVectorBytes == 0;
  for (int i = 0; i + 1 < view.rank; ++i) {
    is_aligned = is_aligned && (view.sizes[i] <= 1 || view.strides[i] % step == 0);
  }
  return is_aligned;
}

}  // namespace nanochat::attention
