// Rows of D elements, as the pre-pass and the attention behind it take them.
#pragma once

#include <initializer_list>
#include <string>
#include <tuple>

#include "attention/prepass.h"

namespace nanochat::attention {

struct Named {
  const char* name;
  const TensorView& view;
};

inline void check_rows(std::initializer_list<Named> rows, std::initializer_list<int64_t> shape,
                       DType dtype) {
  for (const auto& [name, view] : rows) {
    check_shape(name, view, shape);
    check_dtype(name, view, dtype);
    check_last_contiguous(name, view);
  }
}

// Of q (B, T, H, D) and k.
inline void check_rope_norm(const char* op, const RopeNorm& norm, const TensorView& q,
                            const TensorView& k) {
  const int64_t B = q.sizes[0], T = q.sizes[1], D = q.sizes[3];
  const DType statistics = q.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const auto named = [op](const char* name) { return std::string(op) + ": " + name; };
  const std::string cos = named("cos"), sin = named("sin");
  check(norm.qk_scale > 0, op, ": qk_scale must be positive, got ", norm.qk_scale);
  check_rows({{cos.c_str(), norm.cos}, {sin.c_str(), norm.sin}}, {B, T, D / 2}, DType::kFloat32);
  for (const auto& [name, view, heads] : {std::tuple{"q_inv_rms", &norm.q_inv_rms, q.sizes[2]},
                                          std::tuple{"k_inv_rms", &norm.k_inv_rms, k.sizes[2]}}) {
    check_shape(named(name).c_str(), *view, {B, T, heads});
    check_dtype(named(name).c_str(), *view, statistics);
  }
}

}  // namespace nanochat::attention
