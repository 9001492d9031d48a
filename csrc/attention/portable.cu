#include "attention/portable.h"
#include "attention/rows.cuh"
#include "common/cuda/launch.h"

namespace nanochat::attention {
namespace {

struct Named {
  const char* name;
  const TensorView& view;
};

// Rows are read and written 16 bytes at a time.
void require_aligned(std::initializer_list<Named> rows) {
  for (const auto& [name, view] : rows) {
    if (!has_aligned_rows(view)) {
      throw Unsupported(concat("attention: rows of ", name, " must begin at multiples of ",
                               cuda::kVectorBytes, " bytes on CUDA; make it contiguous"));
    }
  }
}

// Sizes that a grid has, and positions that an int has beyond the last tile.
void require_small(const TensorView& q) {
  constexpr int64_t kMaxBlocks = 65535, kMaxT = int64_t{1} << 30;
  if (q.sizes[0] > kMaxBlocks || q.sizes[2] > kMaxBlocks || q.sizes[1] > kMaxT) {
    throw Unsupported(concat("attention: batch and heads must be at most ", kMaxBlocks,
                             " on CUDA and T at most ", kMaxT, ", got q of shape ", q.shape()));
  }
}

[[nodiscard]] bool is_empty(const TensorView& q) {
  return q.sizes[0] == 0 || q.sizes[1] == 0 || q.sizes[2] == 0;
}

}  // namespace

void portable_forward(const Forward& p, const Placement& where) {
  if (is_empty(p.q)) return;
  require_small(p.q);
  require_aligned({{"q", p.q}, {"k", p.k}, {"v", p.v}, {"out", p.out}});
  const cuda::DeviceGuard guard(where.device);
  p.q.sizes[3] == 64 ? launch_forward<64>(p, where) : launch_forward<128>(p, where);
}

void portable_backward(const Backward& p, const Placement& where) {
  if (is_empty(p.q)) return;
  require_small(p.q);
  require_aligned({{"dout", p.dout},
                   {"q", p.q},
                   {"k", p.k},
                   {"v", p.v},
                   {"out", p.out},
                   {"dq", p.dq},
                   {"dk", p.dk},
                   {"dv", p.dv},
                   {"cos", p.rope_norm.cos},
                   {"sin", p.rope_norm.sin}});
  const cuda::DeviceGuard guard(where.device);
  p.q.sizes[3] == 64 ? launch_backward<64>(p, where) : launch_backward<128>(p, where);
}

}  // namespace nanochat::attention
