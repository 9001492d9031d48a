// Where a stack lies in the workspace on CUDA. X is kept wide (short x long), as fp16 with rows of
// whole 16-byte pieces, so a tall matrix is transposed on its way in and on its way out.
#pragma once

#include <algorithm>
#include <cstdint>

namespace nanochat::muon {

struct WorkspaceLayout {
  int64_t K, m, n;

  [[nodiscard]] constexpr int64_t short_dim() const { return std::min(m, n); }
  [[nodiscard]] constexpr int64_t long_dim() const { return std::max(m, n); }
  [[nodiscard]] constexpr bool is_tall() const { return m > n; }

  // Elements from one row of X, or of a square matrix, to the next.
  [[nodiscard]] constexpr int64_t x_stride() const { return padded(long_dim()); }
  [[nodiscard]] constexpr int64_t square_stride() const { return padded(short_dim()); }

  // In fp32 elements, in this order: X, the next X, A, B, row norms, factors, scales.
  [[nodiscard]] constexpr int64_t x_size() const { return K * short_dim() * x_stride() / 2; }
  [[nodiscard]] constexpr int64_t square_size() const {
    return K * short_dim() * square_stride() / 2;
  }
  [[nodiscard]] constexpr int64_t norms_offset() const { return 2 * x_size() + 2 * square_size(); }
  [[nodiscard]] constexpr int64_t factors_offset() const { return norms_offset() + K * m; }
  [[nodiscard]] constexpr int64_t scales_offset() const {
    return factors_offset() + K * long_dim();
  }
  [[nodiscard]] constexpr int64_t size() const { return scales_offset() + K; }

 private:
  static constexpr int64_t padded(int64_t length) { return (length + 7) / 8 * 8; }
};

}  // namespace nanochat::muon
