// After the draw: a thread per sequence puts its token into the step, so that the next step needs
// nothing of the host.
#include "engine/cuda/launch.cuh"
#include "engine/cuda/ptx.cuh"

namespace nanochat::engine::cuda {
namespace {

__global__ void __launch_bounds__(kTokenTile) advance_kernel(const Advance p, int num_tokens) {
  let_next_start();
  wait_for_previous();
  const int i = static_cast<int>(threadIdx.x);
  if (i >= num_tokens) return;
  p.previous[i] = p.token[i];
  // Where nothing could be drawn, any token: the host throws all of it away.
  p.token[i] = p.drawn[i].status == DeviceDrawn::kGood ? p.drawn[i].token : 0;
  ++p.position[i];
  ++p.draws[i].position;
}

}  // namespace

void launch_advance(const Launcher& where, const Advance& p, int num_tokens) {
  launch(where, "engine: advance", advance_kernel, dim3(1), kTokenTile, p, num_tokens);
}

}  // namespace nanochat::engine::cuda
