// Causal attention over what the pre-pass made of q, k and v, forward and backward.
//
//   s[i, j] = scale * q[i] . k[j]           for i - window <= j <= i
//   lse[i]  = log sum_j exp(s[i, j])        p[i, j] = exp(s[i, j] - lse[i])
//   out[i]  = sum_j p[i, j] v[j]
//
// and, with delta[i] = dout[i] . out[i] and ds[i, j] = p[i, j] (dout[i] . v[j] - delta[i]),
//
//   dv[j] = sum_i p[i, j] dout[i]
//   dq[i] = scale sum_j ds[i, j] k[j]    dk[j] = scale sum_i ds[i, j] q[i]
//
// of which the last two go back through the pre-pass before they are rounded and written.
//
// Query head h reads key/value head h / (H / Hkv). No T x T matrix is ever held.
// Source: FlashAttention-2, arXiv:2307.08691; FlashAttention-3, arXiv:2407.08608.
#pragma once

#include "attention/prepass.h"

namespace nanochat::attention {

// A bound that stands in for the maximum must leave room: a row whose scores all lie at -bound
// still has weights exp(-2 bound), which fp32 holds without losing digits.
inline constexpr double kMaxScoreBound = 40.0;

// Multiple of which the rows of Backward::dq_sum are.
inline constexpr int kDqSumRows = 64;

// Any strides, except that D is contiguous. All of one dtype (bf16 or fp32; fp64 on the CPU) but
// lse and delta: fp32, or fp64 with fp64.
struct Forward {
  TensorView q;        // (B, T, H, D)
  TensorView k, v;     // (B, T, Hkv, D)
  TensorView out;      // out, (B, T, H, D)
  TensorView lse;      // out, (B, H, T) contiguous, natural logarithm
  int64_t window = 0;  // keys visible to the left of a query besides its own; T or more: all
  double scale = 1.0;  // > 0
  // Of |s|, if the caller knows one: rows of q and k that are normed to qk_scale sqrt(D) have
  // qk_scale^2 scale D. Kernels then need no running maximum. At most kMaxScoreBound; 0: none
  // is known.
  double score_bound = 0.0;
};

struct Backward {
  TensorView dout, q, k, v, out, lse;
  RopeNorm rope_norm;  // what made q and k
  TensorView delta;    // workspace, (B, H, T) contiguous, of the dtype of lse
  TensorView dq, dk;   // out, gradients of the rows that q and k were made of
  TensorView dv;       // out
  int64_t window = 0;
  double scale = 1.0;
  // Where false, kernels may add up dq in an order that differs from run to run. Those that do
  // (Hopper's) need dq_sum then; the others take no notice.
  bool is_deterministic = true;
  TensorView dq_sum{};  // workspace, (B, H, T rounded up to kDqSumRows, D) fp32 contiguous; absent
                        // where is_deterministic
};

// The same inputs give the same bits, whatever the number of threads, but for is_deterministic.
// Throw std::invalid_argument for what breaks the rules above, Unsupported for a legal request
// that has no kernel: CUDA serves head_dim 64 and 128 in bf16.
void forward(const Forward& p, const Placement& where);
void backward(const Backward& p, const Placement& where);

// Behind the dispatch, on checked arguments.
void forward_cpu(const Forward& p, const Placement& where);
void backward_cpu(const Backward& p, const Placement& where);
void forward_cuda(const Forward& p, const Placement& where);
void backward_cuda(const Backward& p, const Placement& where);

}  // namespace nanochat::attention
