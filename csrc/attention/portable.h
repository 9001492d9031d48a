// Attention on every chip from sm_80 on, by mma.sync.
#pragma once

#include "attention/attention.h"

namespace nanochat::attention {

// On checked arguments. Throw Unsupported unless rows begin at multiples of 16 bytes, and for sizes
// that no grid has.
void portable_forward(const Forward& p, const Placement& where);
void portable_backward(const Backward& p, const Placement& where);

// Behind them, 64 or 128.
template <int kHeadDim>
void launch_forward(const Forward& p, const Placement& where);
template <int kHeadDim>
void launch_backward(const Backward& p, const Placement& where);

}  // namespace nanochat::attention
