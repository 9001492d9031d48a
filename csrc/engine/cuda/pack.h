// Checkpoint tensors on their way to the device: bf16, matrices in the order of layout.h.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "common/dtype.h"
#include "common/tensor_view.h"
#include "engine/model.h"

namespace nanochat::engine::cuda {

// The tensor of that name. Throws std::invalid_argument if it is missing, not contiguous, neither
// fp32 nor bf16, or of another shape; a first size of kAnyRows is not compared.
inline constexpr int64_t kAnyRows = -1;
[[nodiscard]] const TensorView& find_tensor(const Tensors& tensors, const std::string& name,
                                            std::initializer_list<int64_t> shape);

[[nodiscard]] std::vector<float> to_floats(const TensorView& tensor);
[[nodiscard]] std::vector<BFloat16> to_bfloat16s(const TensorView& tensor);

// Stacks matrices (rows, channels) in fragment order; rows are filled up with zeros to a multiple
// of kRowPadding at the end.
[[nodiscard]] std::vector<BFloat16> pack(std::span<const TensorView> matrices);

}  // namespace nanochat::engine::cuda
