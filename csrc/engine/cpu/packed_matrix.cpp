#include "engine/cpu/packed_matrix.h"

#include <algorithm>
#include <cmath>

#include "common/check.h"

namespace nanochat::engine {
namespace {

int64_t bytes_of(Precision precision) {
  if (precision == Precision::kFloat32) return 4;
  return precision == Precision::kBFloat16 ? 2 : 1;
}

void read_row(const TensorView& matrix, int64_t row, std::vector<float>& out) {
  const int64_t begin = row * matrix.sizes[1];
  for (size_t k = 0; k < out.size(); ++k) {
    const int64_t i = begin + static_cast<int64_t>(k);
    out[k] = matrix.dtype == DType::kBFloat16 ? to_float(matrix.as<BFloat16>()[i])
                                              : matrix.as<float>()[i];
  }
}

// Where element k of a column stands in its block, if `group` of them stand together.
int64_t place(int64_t k, int64_t lane, int64_t group) {
  return (k / group * kBlockColumns + lane) * group + k % group;
}

}  // namespace

PackedMatrix::PackedMatrix(std::span<const TensorView> matrices, Precision precision)
    : depth_(matrices[0].sizes[1]), element_bytes_(bytes_of(precision)) {
  check(depth_ % 4 == 0, "engine: rows of a weight must be a multiple of 4 long, got ", depth_);
  for (const TensorView& matrix : matrices) num_columns_ += matrix.sizes[0];
  data_ = HugeArray<char>(static_cast<size_t>(num_bytes()));
  if (precision == Precision::kInt8) {
    scales_.resize(static_cast<size_t>(num_blocks() * kBlockColumns));
    sums_.resize(scales_.size());
  }
  std::vector<float> row(static_cast<size_t>(depth_));
  int64_t n = 0;
  for (const TensorView& matrix : matrices) {
    for (int64_t i = 0; i < matrix.sizes[0]; ++i, ++n) {
      read_row(matrix, i, row);
      char* const to = &data_[0] + n / kBlockColumns * block_bytes();
      const int64_t lane = n % kBlockColumns;
      if (precision == Precision::kInt8) {
        float max = 0;
        for (const float x : row) max = std::max(max, std::abs(x));
        const float scale = max / 127;
        const float factor = max > 0 ? 127 / max : 0;
        int32_t sum = 0;
        for (int64_t k = 0; k < depth_; ++k) {
          const float x = std::nearbyint(row[static_cast<size_t>(k)] * factor);
          const auto rounded = static_cast<int8_t>(std::clamp(x, -127.0f, 127.0f));
          reinterpret_cast<int8_t*>(to)[place(k, lane, 4)] = rounded;
          sum += rounded;
        }
        scales_[static_cast<size_t>(n)] = scale;
        sums_[static_cast<size_t>(n)] = sum;
        continue;
      }
      for (int64_t k = 0; k < depth_; ++k) {
        const float x = row[static_cast<size_t>(k)];
        if (precision == Precision::kBFloat16) {
          reinterpret_cast<BFloat16*>(to)[place(k, lane, 2)] = to_bfloat16(x);
        } else {
          reinterpret_cast<float*>(to)[place(k, lane, 1)] = x;
        }
      }
    }
  }
}

}  // namespace nanochat::engine
