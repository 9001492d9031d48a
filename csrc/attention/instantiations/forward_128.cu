#include "attention/launch_sm80.cuh"

template void nanochat::attention::launch_forward<128>(const Forward& p, const Placement& where);
