#include "cross_entropy/cross_entropy.h"

#include <cstdlib>

namespace nanochat::cross_entropy {

void forward(const Rows& p, const Placement& where) {
  const TensorView& logits = p.logits;
  check(logits.rank == 2, "cross_entropy: logits must be (N, V), got ", logits.shape());
  check(logits.dtype == DType::kFloat32 || logits.dtype == DType::kBFloat16,
        "cross_entropy: logits must be float32 or bfloat16, got ", name(logits.dtype));
  check_last_contiguous("cross_entropy: logits", logits);
  check(logits.sizes[0] <= 1 || std::abs(logits.strides[0]) >= logits.sizes[1],
        "cross_entropy: rows of logits must not overlap, got stride ", logits.strides[0]);
  const int64_t N = logits.sizes[0];
  check_shape("cross_entropy: targets", p.targets, {N});
  check_dtype("cross_entropy: targets", p.targets, DType::kInt64);
  check_last_contiguous("cross_entropy: targets", p.targets);
  check_shape("cross_entropy: loss", p.loss, {N});
  check_dtype("cross_entropy: loss", p.loss, DType::kFloat32);
  check_last_contiguous("cross_entropy: loss", p.loss);
  check(p.vocab_size > 0 && p.vocab_size <= logits.sizes[1],
        "cross_entropy: vocab_size must be between 1 and the number of columns, ", logits.sizes[1],
        ", got ", p.vocab_size);
  check(p.softcap >= 0, "cross_entropy: softcap must not be negative, got ", p.softcap);
  where.is_cuda ? forward_cuda(p, where) : forward_cpu(p, where);
}

}  // namespace nanochat::cross_entropy
