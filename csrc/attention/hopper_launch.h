// What the two launch wrappers of the Hopper kernels share.
#pragma once

#include <type_traits>

#include "attention/hopper.h"
#include "common/cuda/launch.h"
#include "common/cuda/tensor_map.h"

namespace nanochat::attention::hopper {

// Grids have one block in y for each head and one in z for each sequence; rows of all heads are
// counted in 32 bits.
[[nodiscard]] inline bool serves(std::initializer_list<const TensorView*> views,
                                 const Placement& where) {
  constexpr int64_t kMaxGridYz = 65535, kMaxRows = (int64_t{1} << 31) - 1;
  const TensorView& first = **views.begin();
  const int64_t head_dim = first.sizes[3];
  bool fits = (head_dim == 64 || head_dim == 128) && first.sizes[0] <= kMaxGridYz &&
              first.sizes[2] <= kMaxGridYz &&
              first.sizes[0] * first.sizes[1] * first.sizes[2] <= kMaxRows;
  for (const TensorView* view : views) fits = fits && cuda::fits_tensor_map(*view);
  return fits && where.allow_hopper;
}

[[nodiscard]] inline dim3 grid_of(int64_t rows, int rows_per_block, int64_t heads, int64_t batch) {
  return {static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block),
          static_cast<unsigned>(heads), static_cast<unsigned>(batch)};
}

[[nodiscard]] inline int clamped_window(int64_t window, int64_t T) {
  return static_cast<int>(window < T ? window : T);
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, int smem_bytes,
            const Placement& where, const char* what, const Arguments&... arguments) {
  cuda::check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem_bytes), what);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3{static_cast<unsigned>(threads), 1, 1};
  config.dynamicSmemBytes = static_cast<size_t>(smem_bytes);
  config.stream = cuda::stream_of(where);
  cuda::check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), what);
}

// Calls f(head_dim as a constant).
template <typename F>
void with_head_dim(int64_t head_dim, const F& f) {
  if (head_dim == 64) {
    f(std::integral_constant<int, 64>{});
  } else {
    f(std::integral_constant<int, 128>{});
  }
}

}  // namespace nanochat::attention::hopper
