#include "engine/cpu/packed_matrix.h"

#include "common/check.h"

namespace nanochat::engine {
namespace {

float element(const TensorView& matrix, int64_t i) {
  return matrix.dtype == DType::kBFloat16 ? to_float(matrix.as<BFloat16>()[i])
                                          : matrix.as<float>()[i];
}

}  // namespace

PackedMatrix::PackedMatrix(std::span<const TensorView> matrices, Precision precision)
    : depth_(matrices[0].sizes[1]), element_bytes_(precision == Precision::kBFloat16 ? 2 : 4) {
  check(depth_ % 2 == 0, "engine: rows of a weight must have an even length, got ", depth_);
  for (const TensorView& matrix : matrices) num_columns_ += matrix.sizes[0];
  data_ = HugeArray<char>(static_cast<size_t>(num_bytes()));
  int64_t n = 0;
  for (const TensorView& matrix : matrices) {
    for (int64_t row = 0; row < matrix.sizes[0]; ++row, ++n) {
      char* const to = &data_[0] + n / kBlockColumns * block_bytes();
      const int64_t lane = n % kBlockColumns;
      for (int64_t k = 0; k < depth_; ++k) {
        const float x = element(matrix, row * depth_ + k);
        if (precision == Precision::kBFloat16) {
          reinterpret_cast<BFloat16*>(to)[(k / 2 * kBlockColumns + lane) * 2 + k % 2] =
              to_bfloat16(x);
        } else {
          reinterpret_cast<float*>(to)[k * kBlockColumns + lane] = x;
        }
      }
    }
  }
}

}  // namespace nanochat::engine
