#include "attention/launch_sm80.cuh"

template void nanochat::attention::launch_backward<128>(const Backward& p, const Placement& where);
