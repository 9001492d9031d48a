#include "attention/attention.h"

#include <string>

#include "attention/check_rows.h"

namespace nanochat::attention {
namespace {

// One number for each row; kernels walk them as an array.
void check_statistics(const char* who, const TensorView& view, const TensorView& q) {
  const int64_t B = q.sizes[0], T = q.sizes[1], H = q.sizes[2];
  check_shape(who, view, {B, H, T});
  check_dtype(who, view, q.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32);
  check(B * T * H == 0 || ((T == 1 || view.strides[2] == 1) && (H == 1 || view.strides[1] == T) &&
                           (B == 1 || view.strides[0] == H * T)),
        who, " must be contiguous");
}

void check_dq_sum(const Backward& p) {
  check(p.dq_sum.present() != p.is_deterministic,
        "attention: dq_sum must be given where is_deterministic is false, and only there");
  if (p.is_deterministic) return;
  const int64_t B = p.q.sizes[0], H = p.q.sizes[2], D = p.q.sizes[3];
  const int64_t T = (p.q.sizes[1] + kDqSumRows - 1) / kDqSumRows * kDqSumRows;
  check_shape("attention: dq_sum", p.dq_sum, {B, H, T, D});
  check_dtype("attention: dq_sum", p.dq_sum, DType::kFloat32);
  const auto& strides = p.dq_sum.strides;
  check(B * T * H == 0 || ((B == 1 || strides[0] == H * T * D) && (H == 1 || strides[1] == T * D) &&
                           strides[2] == D && strides[3] == 1),
        "attention: dq_sum must be contiguous");
}

void check_numbers(const TensorView& q, const TensorView& k, int64_t window, double scale) {
  check(q.rank == 4, "attention: q must be (B, T, H, D), got ", q.shape());
  check(k.rank == 4, "attention: k must be (B, T, Hkv, D), got ", k.shape());
  const int64_t H = q.sizes[2], D = q.sizes[3], Hkv = k.sizes[2];
  check(q.dtype != DType::kInt64, "attention: q must be floating, got int64");
  check(D > 0 && D % 2 == 0, "attention: head_dim must be even and positive, got ", D);
  check(Hkv > 0 && H % Hkv == 0,
        "attention: the number of query heads must be a multiple of the key/value heads, got ", H,
        " and ", Hkv);
  check(window >= 0, "attention: window must not be negative, got ", window);
  check(scale > 0, "attention: scale must be positive, got ", scale);
}

void check_cuda(const TensorView& q, const Placement& where) {
  if (!where.is_cuda) return;
  const int64_t D = q.sizes[3];
  if (D != 64 && D != 128) {
    throw Unsupported(concat("attention: head_dim must be 64 or 128 on CUDA, got ", D));
  }
  if (q.dtype != DType::kBFloat16) {
    throw Unsupported(concat("attention: dtype must be bfloat16 on CUDA, got ", name(q.dtype)));
  }
}

}  // namespace

void forward(const Forward& p, const Placement& where) {
  check_numbers(p.q, p.k, p.window, p.scale);
  check(p.score_bound >= 0 && p.score_bound <= kMaxScoreBound,
        "attention: score_bound must be between 0 and ", kMaxScoreBound, ", got ", p.score_bound,
        "; 0 lets the kernel find the maxima");
  const int64_t B = p.q.sizes[0], T = p.q.sizes[1], H = p.q.sizes[2], D = p.q.sizes[3];
  check_rows({{"attention: q", p.q}, {"attention: out", p.out}}, {B, T, H, D}, p.q.dtype);
  check_rows({{"attention: k", p.k}, {"attention: v", p.v}}, {B, T, p.k.sizes[2], D}, p.q.dtype);
  check_statistics("attention: lse", p.lse, p.q);
  check_cuda(p.q, where);
  where.is_cuda ? forward_cuda(p, where) : forward_cpu(p, where);
}

void backward(const Backward& p, const Placement& where) {
  check_numbers(p.q, p.k, p.window, p.scale);
  const int64_t B = p.q.sizes[0], T = p.q.sizes[1], H = p.q.sizes[2], D = p.q.sizes[3];
  check_rows({{"attention: dout", p.dout},
              {"attention: q", p.q},
              {"attention: out", p.out},
              {"attention: dq", p.dq}},
             {B, T, H, D}, p.q.dtype);
  check_rows({{"attention: k", p.k},
              {"attention: v", p.v},
              {"attention: dk", p.dk},
              {"attention: dv", p.dv}},
             {B, T, p.k.sizes[2], D}, p.q.dtype);
  check_statistics("attention: lse", p.lse, p.q);
  check_statistics("attention: delta", p.delta, p.q);
  check_rope_norm("attention", p.rope_norm, p.q, p.k);
  check_dq_sum(p);
  check_cuda(p.q, where);
  where.is_cuda ? backward_cuda(p, where) : backward_cpu(p, where);
}

}  // namespace nanochat::attention
