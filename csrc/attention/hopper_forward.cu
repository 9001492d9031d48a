#include "attention/fwd_sm90.cuh"
#include "attention/hopper_launch.h"

namespace nanochat::attention {

bool hopper_forward(const Forward& p, const Placement& where) {
  if (!hopper::serves({&p.q, &p.k, &p.v, &p.out}, where)) return false;
  const int64_t B = p.q.sizes[0], T = p.q.sizes[1], H = p.q.sizes[2], Hkv = p.k.sizes[2];
  if (B == 0 || T == 0 || H == 0) return true;
  const cuda::DeviceGuard guard(where.device);
  hopper::with_head_dim(p.q.sizes[3], [&](auto head_dim) {
    using Tile = hopper::FwdTile<head_dim>;
    constexpr int kSmemBytes = hopper::kSmemBytes<Tile>;
    const hopper::FwdArgs args{.lse = p.lse.as<float>(),
                               .T = static_cast<int>(T),
                               .window = hopper::clamped_window(p.window, T),
                               .heads_per_kv = static_cast<int>(H / Hkv),
                               .scale_log2 = static_cast<float>(p.scale) * hopper::kLog2e,
                               .bound_log2 = static_cast<float>(p.score_bound) * hopper::kLog2e};
    auto* const kernel = p.score_bound > 0.0 ? hopper::forward_kernel<head_dim, true>
                                             : hopper::forward_kernel<head_dim, false>;
    hopper::launch(
        kernel, hopper::grid_of(T, Tile::kBlockM, H, B), Tile::kThreads, kSmemBytes, where,
        "attention: launch of the Hopper forward", cuda::make_tensor_map(p.q, hopper::kGroupRows),
        cuda::make_tensor_map(p.k, Tile::kBlockN), cuda::make_tensor_map(p.v, Tile::kBlockN),
        cuda::make_tensor_map(p.out, hopper::kGroupRows), args);
  });
  return true;
}

}  // namespace nanochat::attention
