// Which kernels serve a call on CUDA.
#include "attention/hopper.h"
#include "attention/portable.h"

namespace nanochat::attention {

void forward_cuda(const Forward& p, const Placement& where) {
  if (!hopper_forward(p, where)) portable_forward(p, where);
}

void backward_cuda(const Backward& p, const Placement& where) {
  if (!hopper_backward(p, where)) portable_backward(p, where);
}

}  // namespace nanochat::attention
