#include "engine/cuda/pack.h"

#include "engine/cuda/layout.h"

namespace nanochat::engine::cuda {
namespace {

int64_t num_elements(const TensorView& tensor) {
  int64_t count = 1;
  for (int i = 0; i < tensor.rank; ++i) count *= tensor.sizes[i];
  return count;
}

BFloat16 bfloat16_at(const TensorView& tensor, int64_t i) {
  return tensor.dtype == DType::kBFloat16 ? tensor.as<const BFloat16>()[i]
                                          : to_bfloat16(tensor.as<const float>()[i]);
}

}  // namespace

const TensorView& find_tensor(const Tensors& tensors, const std::string& name,
                              std::initializer_list<int64_t> shape) {
  const auto found = tensors.find(name);
  check(found != tensors.end(), "engine: the checkpoint has no tensor ", name);
  const TensorView& tensor = found->second;
  bool same = tensor.rank == static_cast<int>(shape.size());
  std::string text;
  int i = 0;
  for (const int64_t size : shape) {
    same = same && (size == kAnyRows || tensor.sizes[i] == size);
    text += (i++ ? ", " : "") + (size == kAnyRows ? std::string("any") : std::to_string(size));
  }
  check(same, "engine: ", name, " must have shape (", text, "), got ", tensor.shape());
  check(tensor.dtype == DType::kFloat32 || tensor.dtype == DType::kBFloat16, "engine: ", name,
        " must be float32 or bfloat16, got ", nanochat::name(tensor.dtype));
  int64_t stride = 1;
  for (int d = tensor.rank - 1; d >= 0; --d) {
    check(tensor.sizes[d] <= 1 || tensor.strides[d] == stride, "engine: ", name,
          " must be contiguous, got stride ", tensor.strides[d], " in dimension ", d);
    stride *= tensor.sizes[d];
  }
  return tensor;
}

std::vector<float> to_floats(const TensorView& tensor) {
  std::vector<float> values(num_elements(tensor));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = tensor.dtype == DType::kBFloat16 ? to_float(tensor.as<const BFloat16>()[i])
                                                 : tensor.as<const float>()[i];
  }
  return values;
}

std::vector<BFloat16> to_bfloat16s(const TensorView& tensor) {
  std::vector<BFloat16> values(num_elements(tensor));
  for (size_t i = 0; i < values.size(); ++i) values[i] = bfloat16_at(tensor, i);
  return values;
}

std::vector<BFloat16> pack(std::span<const TensorView> matrices) {
  const int channels = static_cast<int>(matrices.front().sizes[1]);
  int64_t num_rows = 0;
  for (const TensorView& matrix : matrices) num_rows += matrix.sizes[0];
  num_rows = (num_rows + kRowPadding - 1) / kRowPadding * kRowPadding;
  std::vector<BFloat16> packed(num_rows * channels, BFloat16{0});
  int64_t row = 0;
  for (const TensorView& matrix : matrices) {
    for (int64_t r = 0; r < matrix.sizes[0]; ++r, ++row) {
      for (int c = 0; c < channels; ++c) {
        packed[packed_index(row, c, channels)] = bfloat16_at(matrix, r * channels + c);
      }
    }
  }
  return packed;
}

}  // namespace nanochat::engine::cuda
