// Host side of TMA: describes a (B, T, H, D) tensor of bf16 to the copy engine, in boxes of `rows`
// tokens by 64 columns that lie swizzled in shared memory (sw128.h). Coordinates of the engine:
// (column, head, token, batch).
//
// The driver's encoder is asked for by name at run time: no link with libcuda, so the module
// imports on a machine without a driver.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "common/cuda/launch.h"
#include "common/cuda/sw128.h"
#include "common/tensor_view.h"

namespace nanochat::cuda {

// The engine's rule: base and strides are multiples of 16 bytes, below 2^40.
[[nodiscard]] inline bool fits_tensor_map(const TensorView& view) {
  constexpr int kAlign = 16 / sizeof(BFloat16);
  bool fits = view.dtype == DType::kBFloat16 && reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
  for (int i = 0; i + 1 < view.rank; ++i) {
    const int64_t stride = view.strides[i];
    fits =
        fits && view.sizes[i] < (int64_t{1} << 31) &&
        (view.sizes[i] <= 1 || (stride > 0 && stride % kAlign == 0 && stride < int64_t{1} << 39));
  }
  return fits;
}

namespace detail {

[[nodiscard]] inline decltype(&cuTensorMapEncodeTiled) tensor_map_encoder() {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                              cudaEnableDefault, &found),
             "cuTensorMapEncodeTiled");
#else
  check_cuda(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found),
             "cuTensorMapEncodeTiled");
#endif
  if (found != cudaDriverEntryPointSuccess || entry == nullptr) {
    throw CudaError("tensor map: the driver has no cuTensorMapEncodeTiled; it must be of CUDA 12");
  }
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
}

}  // namespace detail

// `view` passed fits_tensor_map.
[[nodiscard]] inline CUtensorMap make_tensor_map(const TensorView& view, int rows) {
  static const auto encode = detail::tensor_map_encoder();
  const auto size = [&](int i) { return static_cast<cuuint64_t>(view.sizes[i]); };
  // What there is one of is never stepped over, but its stride must be a stride, too.
  const auto stride_bytes = [&](int i, cuuint64_t inner_bytes) {
    return size(i) <= 1 ? inner_bytes : static_cast<cuuint64_t>(view.strides[i]) * sizeof(BFloat16);
  };
  const cuuint64_t head = stride_bytes(2, size(3) * sizeof(BFloat16));
  const cuuint64_t token = stride_bytes(1, head * size(2));
  const cuuint64_t batch = stride_bytes(0, token * size(1));
  const cuuint64_t sizes[] = {size(3), size(2), size(1), size(0)}, strides[] = {head, token, batch};
  const cuuint32_t box[] = {kPanelColumns, 1, static_cast<cuuint32_t>(rows), 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, view.data, sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw CudaError(
        concat("tensor map: the driver refused ", view.shape(), " with error ", status));
  }
  return map;
}

}  // namespace nanochat::cuda
