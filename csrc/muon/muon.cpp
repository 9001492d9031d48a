#include "muon/muon.h"

#include "muon/contiguous.h"
#include "muon/workspace.h"

namespace nanochat::muon {
namespace {

void check_matrices(const char* who, std::span<const TensorView> matrices, int64_t m, int64_t n) {
  const DType dtype = matrices[0].dtype;
  check(dtype == DType::kFloat32 || dtype == DType::kBFloat16, who,
        " must be float32 or bfloat16, got ", name(dtype));
  for (const TensorView& matrix : matrices) {
    check_shape(who, matrix, {m, n});
    check_dtype(who, matrix, dtype);
    check_contiguous(who, matrix);
  }
}

}  // namespace

void step(const Step& p, const Placement& where) {
  const int64_t K = static_cast<int64_t>(p.params.size());
  check(p.grads.size() == p.params.size(), "muon: params need a gradient each, got ", K, " and ",
        p.grads.size());
  if (K == 0) return;
  check(p.params[0].rank == 2, "muon: params must be matrices, got ", p.params[0].shape());
  const int64_t m = p.params[0].sizes[0], n = p.params[0].sizes[1];
  check_matrices("muon: params", p.params, m, n);
  check_matrices("muon: grads", p.grads, m, n);
  check_shape("muon: momentum_buffer", p.momentum_buffer, {K, m, n});
  if (m >= n) {
    check_shape("muon: second_moment", p.second_moment, {K, m, 1});
  } else {
    check_shape("muon: second_moment", p.second_moment, {K, 1, n});
  }
  check_dtype("muon: momentum_buffer", p.momentum_buffer, DType::kFloat32);
  check_dtype("muon: second_moment", p.second_moment, DType::kFloat32);
  check_contiguous("muon: momentum_buffer", p.momentum_buffer);
  check_contiguous("muon: second_moment", p.second_moment);
  check(p.inner_dtype == DType::kFloat32 || p.inner_dtype == DType::kBFloat16,
        "muon: inner_dtype must be float32 or bfloat16, got ", name(p.inner_dtype));
  if (m == 0 || n == 0) return;
  if (where.is_cuda) {
    check_shape("muon: workspace", p.workspace, {workspace_size(K, m, n)});
    check_dtype("muon: workspace", p.workspace, DType::kFloat32);
    check_contiguous("muon: workspace", p.workspace);
  }
  where.is_cuda ? step_cuda(p, where) : step_cpu(p, where);
}

int64_t workspace_size(int64_t K, int64_t m, int64_t n) {
  return WorkspaceLayout{K, m, n}.size();
}

}  // namespace nanochat::muon
