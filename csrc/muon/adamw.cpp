#include "muon/adamw.h"

#include "muon/contiguous.h"

namespace nanochat::adamw {

void step(const Step& p, const Placement& where) {
  const size_t count = p.params.size();
  check(p.grads.size() == count && p.exp_avg.size() == count && p.exp_avg_sq.size() == count,
        "adamw: params need a gradient and two moments each, got ", count, ", ", p.grads.size(),
        ", ", p.exp_avg.size(), " and ", p.exp_avg_sq.size());
  check(p.step >= 1, "adamw: step must count from 1, got ", p.step);
  if (count == 0) return;
  const auto check_list = [&](const char* who, std::span<const TensorView> list, bool is_moment) {
    const DType dtype = is_moment ? DType::kFloat32 : list[0].dtype;
    check(dtype == DType::kFloat32 || dtype == DType::kBFloat16, who,
          " must be float32 or bfloat16, got ", name(dtype));
    for (size_t i = 0; i < count; ++i) {
      check_dtype(who, list[i], dtype);
      check(list[i].shape() == p.params[i].shape(), who, " must have shape ", p.params[i].shape(),
            ", got ", list[i].shape());
      muon::check_contiguous(who, list[i]);
    }
  };
  check_list("adamw: params", p.params, false);
  check_list("adamw: grads", p.grads, false);
  check_list("adamw: exp_avg", p.exp_avg, true);
  check_list("adamw: exp_avg_sq", p.exp_avg_sq, true);
  where.is_cuda ? step_cuda(p, where) : step_cpu(p, where);
}

}  // namespace nanochat::adamw
