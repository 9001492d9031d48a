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

float value(float x) {
  return x;
}

float value(BFloat16 x) {
  return to_float(x);
}

// Where element k of a column stands in its block, if `group` of them stand together.
int64_t place(int64_t k, int64_t lane, int64_t group) {
  return (k / group * kBlockColumns + lane) * group + k % group;
}

}  // namespace

PackedMatrix::PackedMatrix(std::span<const TensorView> matrices, Precision precision)
    : depth_(matrices[0].sizes[1]), element_bytes_(bytes_of(precision)), precision_(precision) {
  check(depth_ % 4 == 0, "engine: rows of a weight must be a multiple of 4 long, got ", depth_);
  for (const TensorView& matrix : matrices) num_columns_ += matrix.sizes[0];
  data_ = HugeArray<char>(static_cast<size_t>(num_bytes()));
  if (precision == Precision::kInt8) {
    scales_.resize(static_cast<size_t>(num_blocks() * kBlockColumns));
    sums_.resize(scales_.size());
  }
  write(matrices);
}

void PackedMatrix::write(std::span<const TensorView> matrices) {
  int64_t n = 0;
  for (const TensorView& matrix : matrices) {
    for (int64_t i = 0; i < matrix.sizes[0]; ++i, ++n) {
      if (matrix.dtype == DType::kBFloat16) {
        write_row(matrix.as<const BFloat16>() + i * depth_, n);
      } else {
        write_row(matrix.as<const float>() + i * depth_, n);
      }
    }
  }
}

template <typename T>
void PackedMatrix::write_row(const T* row, int64_t column) {
  char* const to = &data_[0] + column / kBlockColumns * block_bytes();
  const int64_t lane = column % kBlockColumns;
  if (precision_ == Precision::kInt8) {
    float max = 0;
    for (int64_t k = 0; k < depth_; ++k) max = std::max(max, std::abs(value(row[k])));
    const float factor = max > 0 ? 127 / max : 0;
    int32_t sum = 0;
    for (int64_t k = 0; k < depth_; ++k) {
      const float x = std::nearbyint(value(row[k]) * factor);
      const auto rounded = static_cast<int8_t>(std::clamp(x, -127.0f, 127.0f));
      reinterpret_cast<int8_t*>(to)[place(k, lane, 4)] = rounded;
      sum += rounded;
    }
    scales_[static_cast<size_t>(column)] = max / 127;
    sums_[static_cast<size_t>(column)] = sum;
    return;
  }
  for (int64_t k = 0; k < depth_; ++k) {
    const float x = value(row[k]);
    if (precision_ == Precision::kBFloat16) {
      reinterpret_cast<BFloat16*>(to)[place(k, lane, 2)] = to_bfloat16(x);
    } else {
      reinterpret_cast<float*>(to)[place(k, lane, 1)] = x;
    }
  }
}

}  // namespace nanochat::engine
