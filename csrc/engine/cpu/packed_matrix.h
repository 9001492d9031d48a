// A weight matrix in the order in which the products read it.
//
//   W (N, K)  ->  [N / 16][K / 2][16][2] bf16        columns n .. n + 15 of the product W x stand
//                 [N / 16][K][16] fp32               side by side: one register, no sums across it
//                 [N / 16][K / 4][16][4] int8        and a scale for each column: max |w| / 127
//
// Every output is accumulated over K in ascending order, in one register lane, whatever the number
// of rows in the product or of threads: that is what makes bits independent of the batch. N is
// padded with zero columns to a multiple of 16.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/dtype.h"
#include "common/huge_array.h"
#include "common/tensor_view.h"

namespace nanochat::engine {

inline constexpr int64_t kBlockColumns = 16;

// Of weights. Keys, values and what goes into a product are bf16 in a model of int8.
enum class Precision { kFloat32, kBFloat16, kInt8 };

class PackedMatrix {
 public:
  PackedMatrix() = default;
  // The matrices (N_i, K), fp32 or bf16, one below the other; K a multiple of 4. Rounds to nearest
  // even.
  PackedMatrix(std::span<const TensorView> matrices, Precision precision);
  // Other values of the same shapes, into the memory that is there.
  void write(std::span<const TensorView> matrices);

  [[nodiscard]] int64_t num_columns() const { return num_columns_; }  // N, without padding
  [[nodiscard]] int64_t num_blocks() const {
    return (num_columns_ + kBlockColumns - 1) / kBlockColumns;
  }
  [[nodiscard]] int64_t depth() const { return depth_; }  // K
  [[nodiscard]] int64_t num_bytes() const { return num_blocks() * block_bytes(); }
  [[nodiscard]] int64_t block_bytes() const { return depth_ * kBlockColumns * element_bytes_; }
  [[nodiscard]] const char* block(int64_t i) const { return &data_[0] + i * block_bytes(); }
  // Of int8: by column, padded ones included.
  [[nodiscard]] const float* scales() const { return scales_.data(); }
  [[nodiscard]] const int32_t* sums() const { return sums_.data(); }  // of the integers

 private:
  template <typename T>
  void write_row(const T* row, int64_t column);

  int64_t num_columns_ = 0, depth_ = 0, element_bytes_ = 0;
  Precision precision_ = Precision::kFloat32;
  HugeArray<char> data_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
};

}  // namespace nanochat::engine
