// One Muon step of a stack of K matrices of one shape (m, n), in place on parameters and states.
//
//   momentum  buffer += (1 - mu) (grad - buffer);  g = grad + mu (buffer - grad)      Nesterov
//   MuonEq    every row of g to one norm; then all of it so that singular values are below 1
//   products  X <- a X + (b A + c A A) X with A = X X^T, five times: the nearest semi-orthogonal
//             matrix; tall matrices as their transpose
//   Muon+     to the Frobenius norm sqrt(min(m, n))
//   NorMuon   divided by the root of a running mean of squares of each row (m >= n) or column, the
//             norm of the whole kept
//   update    p -= lr sqrt(max(1, m / n)) (g + weight_decay p), the decay only where g p >= 0
//
// Matrices do not see each other: a NaN stays in its own.
#pragma once

#include <span>

#include "common/placement.h"
#include "common/tensor_view.h"

namespace nanochat::muon {

struct Step {
  std::span<const TensorView> grads;    // K times (m, n), fp32 or bf16, all alike
  std::span<const TensorView> params;   // K times (m, n), fp32 or bf16, all alike
  TensorView momentum_buffer;           // (K, m, n) fp32
  TensorView second_moment;             // (K, m, 1) if m >= n, else (K, 1, n); fp32
  TensorView workspace;                 // CUDA: (workspace_size(),) fp32; absent on the CPU
  DType inner_dtype = DType::kFloat32;  // of the products on the CPU; on CUDA they are fp16
  double lr = 0.0;
  double momentum = 0.0;
  double beta2 = 0.0;
  double weight_decay = 0.0;
};

// Throws std::invalid_argument for shapes, dtypes or strides against the rules above, all tensors
// being contiguous.
void step(const Step& p, const Placement& where);

// Elements of the workspace that a stack of K matrices (m, n) needs on CUDA.
[[nodiscard]] int64_t workspace_size(int64_t K, int64_t m, int64_t n);

// Behind the dispatch, on checked arguments.
void step_cpu(const Step& p, const Placement& where);
void step_cuda(const Step& p, const Placement& where);

}  // namespace nanochat::muon
