#include "attention/bwd_fused_sm90.cuh"
#include "attention/bwd_sm90.cuh"
#include "attention/hopper_launch.h"

namespace nanochat::attention {
namespace {

CUtensorMap map(const TensorView& view, int rows) {
  return cuda::make_tensor_map(view, rows);
}

template <int kHeadDim>
void launch_split(const Backward& p, const hopper::BwdArgs& args, const Placement& where) {
  const int64_t B = p.q.sizes[0], T = p.q.sizes[1], H = p.q.sizes[2], Hkv = p.k.sizes[2];
  using Dq = hopper::DqTile<kHeadDim>;
  hopper::launch(hopper::dq_kernel<kHeadDim>, hopper::grid_of(T, Dq::kBlockM, H, B), Dq::kThreads,
                 hopper::kSmemBytes<Dq>, where, "attention: launch of the Hopper dq",
                 map(p.q, hopper::kGroupRows), map(p.k, Dq::kBlockN), map(p.v, Dq::kBlockN),
                 map(p.dout, hopper::kGroupRows), map(p.dq, hopper::kGroupRows), args);
  using DkDv = hopper::DkDvTile<kHeadDim>;
  hopper::launch(hopper::dk_dv_kernel<kHeadDim>, hopper::grid_of(T, DkDv::kBlockN, Hkv, B),
                 DkDv::kThreads, hopper::kSmemBytes<DkDv>, where,
                 "attention: launch of the Hopper dk and dv", map(p.q, DkDv::kBlockM),
                 map(p.k, hopper::kGroupRows), map(p.v, hopper::kGroupRows),
                 map(p.dout, DkDv::kBlockM), map(p.dk, hopper::kGroupRows),
                 map(p.dv, hopper::kGroupRows), args);
}

template <int kHeadDim>
void launch_fused(const Backward& p, const hopper::BwdArgs& args, const Placement& where) {
  const int64_t B = p.q.sizes[0], T = p.q.sizes[1], H = p.q.sizes[2], Hkv = p.k.sizes[2];
  auto* const dq_sum = p.dq_sum.as<float>();
  hopper::launch(hopper::pre_kernel<kHeadDim>, hopper::grid_of(T, kDqSumRows, H, B),
                 hopper::kPreThreads, 0, where, "attention: launch of delta", args, dq_sum);
  using Tile = hopper::FusedTile<kHeadDim>;
  hopper::launch(hopper::fused_kernel<kHeadDim>, hopper::grid_of(T, Tile::kBlockN, Hkv, B),
                 Tile::kThreads, hopper::kSmemBytes<Tile>, where,
                 "attention: launch of the fused Hopper backward", map(p.q, Tile::kBlockM),
                 map(p.k, hopper::kGroupRows), map(p.v, hopper::kGroupRows),
                 map(p.dout, Tile::kBlockM), map(p.dk, hopper::kGroupRows),
                 map(p.dv, hopper::kGroupRows), args, dq_sum);
  hopper::launch(hopper::post_kernel<kHeadDim>, hopper::grid_of(T, kDqSumRows, H, B),
                 hopper::PostThreads<kHeadDim>::kThreads, 0, where,
                 "attention: launch of what ends dq", dq_sum, args, rows_of<const BFloat16>(p.q),
                 rows_of<BFloat16>(p.dq));
}

}  // namespace

bool hopper_backward(const Backward& p, const Placement& where) {
  if (!hopper::serves({&p.q, &p.k, &p.v, &p.out, &p.dout, &p.dq, &p.dk, &p.dv}, where) ||
      !has_aligned_rows(p.rope_norm.cos) || !has_aligned_rows(p.rope_norm.sin)) {
    return false;
  }
  const int64_t B = p.q.sizes[0], T = p.q.sizes[1], H = p.q.sizes[2];
  if (B == 0 || T == 0 || H == 0) return true;
  const cuda::DeviceGuard guard(where.device);
  const auto scale = static_cast<float>(p.scale);
  const hopper::BwdArgs args{.out = rows_of<const BFloat16>(p.out),
                             .dout = rows_of<const BFloat16>(p.dout),
                             .rope_norm = rope_norm_rows(p.rope_norm),
                             .lse = p.lse.as<const float>(),
                             .delta = p.delta.as<float>(),
                             .T = static_cast<int>(T),
                             .H = static_cast<int>(H),
                             .window = hopper::clamped_window(p.window, T),
                             .heads_per_kv = static_cast<int>(H / p.k.sizes[2]),
                             .scale = scale,
                             .scale_log2 = scale * hopper::kLog2e};
  hopper::with_head_dim(p.q.sizes[3], [&](auto head_dim) {
    if (p.is_deterministic) {
      launch_split<head_dim>(p, args, where);
    } else {
      launch_fused<head_dim>(p, args, where);
    }
  });
  return true;
}

}  // namespace nanochat::attention
