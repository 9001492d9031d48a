// From the views of attention.h to kernel arguments and launches; instantiations/ holds a file for
// each direction and head_dim.
#pragma once

#include <algorithm>

#include "attention/bwd_sm80.cuh"
#include "attention/fwd_sm80.cuh"
#include "attention/portable.h"
#include "common/cuda/launch.h"

namespace nanochat::attention {

template <typename T>
Heads<T> heads_of(const TensorView& view) {
  return {view.as<T>(), view.strides[0], view.strides[1], view.strides[2]};
}

// T or more keys are all keys, and an int holds T.
[[nodiscard]] inline int window_of(int64_t window, int64_t T) {
  return static_cast<int>(std::min(window, T));
}

// Blocks of a launch: tiles of `rows` rows, heads, batch.
[[nodiscard]] inline dim3 grid_of(int64_t T, int rows, int64_t heads, int64_t B) {
  return dim3(static_cast<unsigned>((T + rows - 1) / rows), static_cast<unsigned>(heads),
              static_cast<unsigned>(B));
}

template <typename Args>
void launch(const char* what, void (*kernel)(Args), dim3 grid, int threads, int smem_bytes,
            const Placement& where, const Args& args) {
  cuda::check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem_bytes), what);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(smem_bytes);
  config.stream = cuda::stream_of(where);
  cuda::check_cuda(cudaLaunchKernelEx(&config, kernel, args), what);
}

template <int kHeadDim>
void launch_forward(const Forward& p, const Placement& where) {
  using Tile = FwdTile<kHeadDim>;
  const int64_t B = p.q.sizes[0], T = p.q.sizes[1], H = p.q.sizes[2];
  const ForwardArgs args{.q = heads_of<const BFloat16>(p.q),
                         .k = heads_of<const BFloat16>(p.k),
                         .v = heads_of<const BFloat16>(p.v),
                         .out = heads_of<BFloat16>(p.out),
                         .lse = p.lse.as<float>(),
                         .T = static_cast<int>(T),
                         .H = static_cast<int>(H),
                         .group = static_cast<int>(H / p.k.sizes[2]),
                         .window = window_of(p.window, T),
                         .scale_log2 = static_cast<float>(p.scale * kLog2E),
                         .bound_log2 = static_cast<float>(p.score_bound * kLog2E)};
  launch("attention: forward",
         p.score_bound > 0 ? forward_kernel<Tile, BoundedSoftmax>
                           : forward_kernel<Tile, RunningSoftmax>,
         grid_of(T, Tile::kBlockM, H, B), Tile::kThreads, Tile::kSmemBytes, where, args);
}

template <int kHeadDim>
void launch_backward(const Backward& p, const Placement& where) {
  using Delta = DeltaRows<kHeadDim>;
  using DkDv = DkDvTile<kHeadDim>;
  using Dq = DqTile<kHeadDim>;
  const int64_t B = p.q.sizes[0], T = p.q.sizes[1], H = p.q.sizes[2], Hkv = p.k.sizes[2];
  const BackwardArgs args{.dout = heads_of<const BFloat16>(p.dout),
                          .q = heads_of<const BFloat16>(p.q),
                          .k = heads_of<const BFloat16>(p.k),
                          .v = heads_of<const BFloat16>(p.v),
                          .out = heads_of<const BFloat16>(p.out),
                          .dq = heads_of<BFloat16>(p.dq),
                          .dk = heads_of<BFloat16>(p.dk),
                          .dv = heads_of<BFloat16>(p.dv),
                          .rope_norm = rope_norm_rows(p.rope_norm),
                          .lse = p.lse.as<const float>(),
                          .delta = p.delta.as<float>(),
                          .T = static_cast<int>(T),
                          .H = static_cast<int>(H),
                          .group = static_cast<int>(H / Hkv),
                          .window = window_of(p.window, T),
                          .scale = static_cast<float>(p.scale),
                          .scale_log2 = static_cast<float>(p.scale * kLog2E)};
  launch("attention: delta", delta_kernel<kHeadDim>, grid_of(T, Delta::kRows, H, B),
         Delta::kThreads, 0, where, args);
  launch("attention: dk, dv", dk_dv_kernel<DkDv>, grid_of(T, DkDv::kBlockN, Hkv, B), DkDv::kThreads,
         DkDv::kSmemBytes, where, args);
  launch("attention: dq", dq_kernel<Dq>, grid_of(T, Dq::kBlockM, H, B), Dq::kThreads,
         Dq::kSmemBytes, where, args);
}

}  // namespace nanochat::attention
