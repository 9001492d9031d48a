// The attention pre-pass: all that stands between the QKV projection and softmax(q k^T), in one
// read and one write.
//
//   q_hat = qk_scale * rms_norm(rope(q))
//   k_hat = qk_scale * rms_norm(rope(k))
//   v_hat = v + 3 * sigmoid(gate) * ve
//
// rope rotates the pair (d, d + D / 2) by -theta: y1 = x1 cos + x2 sin, y2 = -x1 sin + x2 cos.
#pragma once

#include "common/placement.h"
#include "common/tensor_view.h"

namespace nanochat::attention {

// B batch, T tokens, H query heads, Hkv key/value heads, D head dimension (even). Any strides,
// except that D is contiguous, so that q, k, v may be views of one fused projection. All of one
// dtype (fp32, bf16; fp64 on the CPU) but the tables and inv_rms: fp32, inv_rms fp64 with fp64.

// How q_hat and k_hat are made of q and k; the backward needs no more of q and k than this.
struct RopeNorm {
  TensorView cos, sin;    // (B, T, D / 2); a table that all rows share has batch stride 0
  TensorView q_inv_rms;   // (B, T, H), which the forward writes
  TensorView k_inv_rms;   // (B, T, Hkv), the same
  double qk_scale = 1.0;  // > 0
};

struct PrepassForward {
  TensorView q;  // (B, T, H, D)
  TensorView k;  // (B, T, Hkv, D)
  RopeNorm rope_norm;
  TensorView v, ve;         // (B, T, Hkv, D), or both absent: v_hat is then v and is not written
  TensorView gate;          // (B, T, Hkv) logits, present with ve
  TensorView q_hat, k_hat;  // out, shapes of q and k
  TensorView v_hat;         // out, present with ve
  double eps = 0.0;         // added to the mean square
};

// Of q and k, from what the forward wrote. The backward of attention.h does this on its own.
struct PrepassBackward {
  TensorView dq_hat, dk_hat;
  TensorView q_hat, k_hat;
  RopeNorm rope_norm;
  TensorView dq, dk;  // out
};

// Of the value embeddings. The gradient of v is dv_hat itself.
struct GateBackward {
  TensorView dv_hat, ve;  // (B, T, Hkv, D)
  TensorView gate;        // (B, T, Hkv)
  TensorView dve, dgate;  // out
};

// Throw std::invalid_argument for what breaks the rules above, Unsupported for a legal request
// that has no kernel: CUDA serves head_dim 64 and 128 in fp32 and bf16.
void prepass_forward(const PrepassForward& p, const Placement& where);
void prepass_backward(const PrepassBackward& p, const Placement& where);
void gate_backward(const GateBackward& p, const Placement& where);

// Behind the dispatch, on checked arguments.
void prepass_forward_cpu(const PrepassForward& p, const Placement& where);
void prepass_backward_cpu(const PrepassBackward& p, const Placement& where);
void gate_backward_cpu(const GateBackward& p, const Placement& where);
void prepass_forward_cuda(const PrepassForward& p, const Placement& where);
void prepass_backward_cuda(const PrepassBackward& p, const Placement& where);
void gate_backward_cuda(const GateBackward& p, const Placement& where);

}  // namespace nanochat::attention
