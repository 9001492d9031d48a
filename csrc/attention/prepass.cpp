#include "attention/prepass.h"

#include <string>

#include "attention/check_rows.h"

namespace nanochat::attention {
namespace {

void check_plain(std::initializer_list<Named> views, std::initializer_list<int64_t> shape,
                 DType dtype) {
  for (const auto& [name, view] : views) {
    check_shape(name, view, shape);
    check_dtype(name, view, dtype);
  }
}

struct Shape {
  int64_t B, T, H, Hkv, D;
  DType dtype;
};

void check_cuda(const TensorView& rows, const Placement& where) {
  if (!where.is_cuda) return;
  if (rows.sizes[3] != 64 && rows.sizes[3] != 128) {
    throw Unsupported(concat("prepass: head_dim must be 64 or 128 on CUDA, got ", rows.sizes[3]));
  }
  if (rows.dtype == DType::kFloat64) {
    throw Unsupported("prepass: dtype must be float32 or bfloat16 on CUDA, got float64");
  }
}

// Reads the shape off q and k (or what stands for them) and checks what does not need the others.
Shape read_shape(const TensorView& q, const TensorView& k, const Placement& where) {
  check(q.rank == 4, "prepass: q must be (B, T, H, D), got ", q.shape());
  check(k.rank == 4, "prepass: k must be (B, T, Hkv, D), got ", k.shape());
  const Shape shape{.B = q.sizes[0],
                    .T = q.sizes[1],
                    .H = q.sizes[2],
                    .Hkv = k.sizes[2],
                    .D = q.sizes[3],
                    .dtype = q.dtype};
  check(shape.dtype != DType::kInt64, "prepass: q must be floating, got int64");
  check(shape.D > 0 && shape.D % 2 == 0, "prepass: head_dim must be even and positive, got ",
        shape.D);
  check(shape.Hkv > 0 && shape.H % shape.Hkv == 0,
        "prepass: the number of query heads must be a multiple of the key/value heads, got ",
        shape.H, " and ", shape.Hkv);
  check_cuda(q, where);
  return shape;
}

}  // namespace

void prepass_forward(const PrepassForward& p, const Placement& where) {
  const auto [B, T, H, Hkv, D, dtype] = read_shape(p.q, p.k, where);
  check(p.eps >= 0, "prepass: eps must not be negative, got ", p.eps);
  check_rows({{"prepass: q", p.q}, {"prepass: q_hat", p.q_hat}}, {B, T, H, D}, dtype);
  check_rows({{"prepass: k", p.k}, {"prepass: k_hat", p.k_hat}}, {B, T, Hkv, D}, dtype);
  check_rope_norm("prepass", p.rope_norm, p.q, p.k);
  if (p.ve.present()) {
    check_rows({{"prepass: v", p.v}, {"prepass: ve", p.ve}, {"prepass: v_hat", p.v_hat}},
               {B, T, Hkv, D}, dtype);
    check_plain({{"prepass: gate", p.gate}}, {B, T, Hkv}, dtype);
  }
  where.is_cuda ? prepass_forward_cuda(p, where) : prepass_forward_cpu(p, where);
}

void prepass_backward(const PrepassBackward& p, const Placement& where) {
  const auto [B, T, H, Hkv, D, dtype] = read_shape(p.q_hat, p.k_hat, where);
  check_rows({{"prepass: dq_hat", p.dq_hat}, {"prepass: q_hat", p.q_hat}, {"prepass: dq", p.dq}},
             {B, T, H, D}, dtype);
  check_rows({{"prepass: dk_hat", p.dk_hat}, {"prepass: k_hat", p.k_hat}, {"prepass: dk", p.dk}},
             {B, T, Hkv, D}, dtype);
  check_rope_norm("prepass", p.rope_norm, p.q_hat, p.k_hat);
  where.is_cuda ? prepass_backward_cuda(p, where) : prepass_backward_cpu(p, where);
}

void gate_backward(const GateBackward& p, const Placement& where) {
  check(p.ve.rank == 4, "prepass: ve must be (B, T, Hkv, D), got ", p.ve.shape());
  const auto [B, T, Hkv, D] = p.ve.sizes;
  check(p.ve.dtype != DType::kInt64, "prepass: ve must be floating, got int64");
  check_cuda(p.ve, where);
  check_rows({{"prepass: dv_hat", p.dv_hat}, {"prepass: ve", p.ve}, {"prepass: dve", p.dve}},
             {B, T, Hkv, D}, p.ve.dtype);
  check_plain({{"prepass: gate", p.gate}, {"prepass: dgate", p.dgate}}, {B, T, Hkv}, p.ve.dtype);
  where.is_cuda ? gate_backward_cuda(p, where) : gate_backward_cpu(p, where);
}

}  // namespace nanochat::attention
