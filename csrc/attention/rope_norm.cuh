// The end of a backward that summed gradients of normed and rotated rows: in registers, and before
// they are rounded, they become gradients of the rows that the pre-pass took (prepass_row.h).
//
// A warp has 16 rows, a lane 4 g + t of each 8 columns
//   (g, 2t)  (g, 2t + 1)  (g + 8, 2t)  (g + 8, 2t + 1)
// so both elements of a rotated pair, D / 2 columns apart, are its own, and four lanes share the
// product of two rows. ldmatrix brings the normed rows, which are in shared memory, in this order.
#pragma once

#include "attention/prepass.h"
#include "attention/prepass_row.h"
#include "attention/rows.cuh"
#include "common/cuda/reduce.cuh"

namespace nanochat::attention {

struct RopeNormRows {
  Rows<const float> cos, sin, q_inv_rms, k_inv_rms;
  float qk_scale, projection_factor;
};

[[nodiscard]] inline RopeNormRows rope_norm_rows(const RopeNorm& norm) {
  const auto qk_scale = static_cast<float>(norm.qk_scale);
  return {.cos = rows_of<const float>(norm.cos),
          .sin = rows_of<const float>(norm.sin),
          .q_inv_rms = rows_of<const float>(norm.q_inv_rms),
          .k_inv_rms = rows_of<const float>(norm.k_inv_rms),
          .qk_scale = qk_scale,
          .projection_factor = projection_factor(qk_scale, 2 * norm.cos.sizes[2])};
}

// A lane's two rows: tokens row and row + 8, of which those from T on are never written.
struct LaneRows {
  int batch, row, head, T;

  __device__ __forceinline__ int token(int half) const {
    return row + 8 * half < T ? row + 8 * half : 0;
  }
};

// sum(n, i): the lane's element i of columns 8 n .. 8 n + 7. normed(k): its words of the normed
// rows' columns 16 k .. 16 k + 15. `scale`: what the sums lack.
template <int kHeadDim, typename SumAt, typename NormedAt>
__device__ __forceinline__ void rope_norm_backward(const SumAt& sum, const NormedAt& normed,
                                                   const RopeNormRows& rows,
                                                   const Rows<const float>& inv_rms,
                                                   const LaneRows& lane, float scale) {
  constexpr int kColumns = kHeadDim / 16;  // groups of 8 columns in half a row
  struct alignas(8) Two {
    float at[2];
  };
  const auto normed_at = [&](int n, int half, int i) {
    const uint32_t word = normed(n / 2)[n % 2 * 2 + half];
    return to_float(BFloat16{static_cast<uint16_t>(word >> 16 * i)});
  };
  const auto normed_pair = [&](int n, int half, int i) {
    return Pair<float>{normed_at(n, half, i), normed_at(n + kColumns, half, i)};
  };
  const auto sum_pair = [&](int n, int half, int i) {
    return Pair<float>{sum(n, 2 * half + i), sum(n + kColumns, 2 * half + i)};
  };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float y_dot_dy = 0.0f;
#pragma unroll
    for (int i = 0; i < 2 * kColumns; ++i) {
      y_dot_dy += dot(sum_pair(i / 2, half, i % 2), normed_pair(i / 2, half, i % 2));
    }
    const float projection = rows.projection_factor * cuda::reduce_lanes<4>(y_dot_dy, cuda::Sum{});
    const int token = lane.token(half), t = static_cast<int>(threadIdx.x) % 4;
    const float row_scale = scale * rows.qk_scale * *inv_rms.at(lane.batch, token, lane.head);
    const auto* const cos = reinterpret_cast<const Two*>(rows.cos.at(lane.batch, token, 0)) + t;
    const auto* const sin = reinterpret_cast<const Two*>(rows.sin.at(lane.batch, token, 0)) + t;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const Two c = cos[4 * n], s = sin[4 * n];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Pair<float> dx = rope_norm_backward(sum_pair(n, half, i), normed_pair(n, half, i),
                                                  c.at[i], s.at[i], projection, row_scale);
        sum(n, 2 * half + i) = dx.first;
        sum(n + kColumns, 2 * half + i) = dx.second;
      }
    }
  }
}

}  // namespace nanochat::attention
