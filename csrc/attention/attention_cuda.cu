// Which kernels serve a call on CUDA.
#include "attention/portable.h"

namespace nanochat::attention {

void forward_cuda(const Forward& p, const Placement& where) {
  portable_forward(p, where);
}

void backward_cuda(const Backward& p, const Placement& where) {
  portable_backward(p, where);
}

}  // namespace nanochat::attention
