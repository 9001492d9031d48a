// Attention by the instructions of sm_90a (wgmma, TMA).
#pragma once

#include "attention/attention.h"

namespace nanochat::attention {

// On checked arguments: whether this path serves them, and then it has. It serves bf16 with
// head_dim 64 or 128 where Hopper is allowed, if data and strides are multiples of 16 bytes.
[[nodiscard]] bool hopper_forward(const Forward& p, const Placement& where);
[[nodiscard]] bool hopper_backward(const Backward& p, const Placement& where);

}  // namespace nanochat::attention
