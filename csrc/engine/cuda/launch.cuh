// One way to launch: a kernel may start while the one before it in the stream still runs, where the
// device can (see wait_for_previous).
#pragma once

#include <utility>

#include "common/cuda/launch.h"
#include "engine/cuda/kernels.h"

namespace nanochat::engine::cuda {

template <typename... Parameters, typename... Arguments>
void launch(const Launcher& where, const char* what, void (*kernel)(Parameters...), dim3 grid,
            int threads, Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = where.stream;
  config.attrs = &attribute;
  config.numAttrs = where.overlap ? 1 : 0;
  nanochat::cuda::check_cuda(
      cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), what);
}

// Calls body(columns) with the columns of 8 tokens as a constant.
template <typename Body>
void with_columns(int num_tokens, const Body& body) {
  switch (mma_columns(num_tokens)) {
    case 1:
      return body(std::integral_constant<int, 1>{});
    case 2:
      return body(std::integral_constant<int, 2>{});
    case 4:
      return body(std::integral_constant<int, 4>{});
    default:
      return body(std::integral_constant<int, 8>{});
  }
}

[[nodiscard]] inline unsigned token_tiles(int num_tokens) {
  return static_cast<unsigned>((num_tokens + kTokenTile - 1) / kTokenTile);
}

}  // namespace nanochat::engine::cuda
