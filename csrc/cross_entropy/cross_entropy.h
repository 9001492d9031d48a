// Loss of rows of logits in nats and, in place of the logits, its gradient.
//
//   z = softcap * tanh(logits / softcap)           loss[i] = log(sum_j exp(z[i, j])) - z[i, target]
//   dlogits = (softmax(z) - onehot(target)) * (1 - tanh^2)
//
// The head's GEMM stands outside: the caller feeds chunks of rows, so that memory never grows with
// rows times vocabulary.
#pragma once

#include "common/placement.h"
#include "common/tensor_view.h"

namespace nanochat::cross_entropy {

struct Rows {
  TensorView logits;   // (N, Vpad) fp32 or bf16, columns contiguous; overwritten if with_gradient
  TensorView targets;  // (N,) int64: in [0, vocab_size), or ignore_index: loss and gradient are 0
  TensorView loss;     // out, (N,) fp32
  int64_t vocab_size = 0;  // columns from here on are not read, and their gradient is 0
  int64_t ignore_index = -1;
  double softcap = 0.0;  // 0: none
  bool with_gradient = false;
};

// Throws std::invalid_argument for shapes, dtypes or strides against the rules above and, on the
// CPU, std::out_of_range for a target that is no column; on CUDA such a row's loss is NaN.
void forward(const Rows& p, const Placement& where);

// Behind the dispatch, on checked arguments.
void forward_cpu(const Rows& p, const Placement& where);
void forward_cuda(const Rows& p, const Placement& where);

}  // namespace nanochat::cross_entropy
