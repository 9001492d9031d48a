// Borrowed memory with a shape. The element type is a run-time value here, since it comes from
// Python; kernels take typed row pointers after dispatch. Strides count elements.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "common/check.h"
#include "common/dtype.h"

namespace nanochat {

inline constexpr int kMaxRank = 4;

struct TensorView {
  void* data = nullptr;  // null: an optional tensor that is absent
  DType dtype = DType::kFloat32;
  int rank = 0;
  std::array<int64_t, kMaxRank> sizes{};
  std::array<int64_t, kMaxRank> strides{};

  [[nodiscard]] bool present() const { return rank > 0; }

  template <typename T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data);
  }

  [[nodiscard]] std::string shape() const {
    std::string text = "(";
    for (int i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
    return text + ")";
  }
};

// `who` names operation and argument, as in "prepass: cos".
inline void check_shape(const char* who, const TensorView& view,
                        std::initializer_list<int64_t> want) {
  bool same = view.rank == static_cast<int>(want.size());
  int i = 0;
  std::string text;
  for (const int64_t size : want) {
    same = same && view.sizes[i] == size;
    text += (i++ ? ", " : "") + std::to_string(size);
  }
  check(same, who, " must have shape (", text, "), got ", view.shape());
}

inline void check_dtype(const char* who, const TensorView& view, DType want) {
  check(view.dtype == want, who, " must be ", name(want), ", got ", name(view.dtype));
}

// A stride means nothing where there is at most one element to step over.
inline void check_last_contiguous(const char* who, const TensorView& view) {
  const int last = view.rank - 1;
  check(view.sizes[last] <= 1 || view.strides[last] == 1, who,
        " must be contiguous in its last dimension, got stride ", view.strides[last]);
}

}  // namespace nanochat
