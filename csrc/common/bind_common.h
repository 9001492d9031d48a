// How arguments arrive from Python (nanochat.ops.native reads them off the tensors):
//   TensorView   None, or (address, sizes, strides, dtype)
//   Placement    (is_cuda, num_threads, cpu_level, device, stream, allow_hopper)
#pragma once

#include <pybind11/pybind11.h>

#include "common/placement.h"
#include "common/tensor_view.h"

namespace pybind11::detail {

template <>
struct type_caster<nanochat::TensorView> {
  PYBIND11_TYPE_CASTER(nanochat::TensorView, const_name("View"));

  bool load(handle source, bool /*convert*/) {
    if (source.is_none()) return true;
    const auto fields = reinterpret_borrow<tuple>(source);
    const auto sizes = reinterpret_borrow<tuple>(fields[1]);
    const auto strides = reinterpret_borrow<tuple>(fields[2]);
    nanochat::check(sizes.size() <= nanochat::kMaxRank, "view: a tensor must have at most ",
                    nanochat::kMaxRank, " dimensions, got ", sizes.size());
    value.data = reinterpret_cast<void*>(fields[0].cast<uintptr_t>());
    value.dtype = static_cast<nanochat::DType>(fields[3].cast<int>());
    value.rank = static_cast<int>(sizes.size());
    for (size_t i = 0; i < sizes.size(); ++i) {
      value.sizes[i] = sizes[i].cast<int64_t>();
      value.strides[i] = strides[i].cast<int64_t>();
    }
    return true;
  }
};

template <>
struct type_caster<nanochat::Placement> {
  PYBIND11_TYPE_CASTER(nanochat::Placement, const_name("Placement"));

  bool load(handle source, bool /*convert*/) {
    const auto fields = reinterpret_borrow<tuple>(source);
    value = {.is_cuda = fields[0].cast<bool>(),
             .num_threads = fields[1].cast<int>(),
             .cpu_level = static_cast<nanochat::CpuLevel>(fields[2].cast<int>()),
             .device = fields[3].cast<int>(),
             .stream = reinterpret_cast<void*>(fields[4].cast<uintptr_t>()),
             .allow_hopper = fields[5].cast<bool>()};
    return true;
  }
};

}  // namespace pybind11::detail
