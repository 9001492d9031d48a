// Backward of rope and norm for a row in memory, with vectors V where they fit. Inlined, so that
// each caller compiles it for its own instruction level.
#pragma once

#include "attention/prepass_row.h"
#include "common/cpu_level.h"
#include "common/simd.h"
#include "common/tensor_view.h"

namespace nanochat::attention {

template <typename F, typename T>
NANOCHAT_HD Pair<F> read_pair(const T* row, int64_t half, int64_t d) {
  return {simd::read<F>(row + d), simd::read<F>(row + half + d)};
}

template <typename F, typename T>
NANOCHAT_HD void write_pair(T* row, int64_t half, int64_t d, Pair<F> x) {
  simd::write<F>(row + d, x.first);
  simd::write<F>(row + half + d, x.second);
}

// factor: projection_factor. scale: g r, and what dy lacks. dy may be sums, in Acc<T>.
template <typename V, typename G, typename T>
NANOCHAT_HD void rope_norm_backward_row(const G* dy, const T* y, const float* cos, const float* sin,
                                        T* dx, int64_t D, Acc<T> factor, Acc<T> scale) {
  const int64_t half = D / 2;
  simd::RowSum<V, Acc<T>> y_dot_dy;
  simd::for_each_step<V, T>(half, [&](auto tag, int64_t d) NANOCHAT_INLINE_LAMBDA {
    using F = typename decltype(tag)::type;
    y_dot_dy.add(dot(read_pair<F>(dy, half, d), read_pair<F>(y, half, d)));
  });
  const Acc<T> projection = factor * y_dot_dy.total();
  simd::for_each_step<V, T>(half, [&](auto tag, int64_t d) NANOCHAT_INLINE_LAMBDA {
    using F = typename decltype(tag)::type;
    write_pair<F>(
        dx, half, d,
        rope_norm_backward(read_pair<F>(dy, half, d), read_pair<F>(y, half, d),
                           simd::read<F>(cos + d), simd::read<F>(sin + d), projection, scale));
  });
}

// Address of the row (b, t) of a table, and of the row or element (b, t, h) of a tensor.
template <typename T>
NANOCHAT_HD T* at(const TensorView& x, int64_t b, int64_t t) {
  return x.as<T>() + b * x.strides[0] + t * x.strides[1];
}

template <typename T>
NANOCHAT_HD T* at(const TensorView& x, int64_t b, int64_t t, int64_t h) {
  return at<T>(x, b, t) + h * x.strides[2];
}

}  // namespace nanochat::attention
