// The element types of kernels and the conversions between them, the same on host and device.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#define NANOCHAT_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define NANOCHAT_HD [[gnu::always_inline]] inline
#else
#define NANOCHAT_HD inline
#endif

namespace nanochat {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat64 = 2, kInt64 = 3 };

// Upper half of an IEEE fp32: 8 bits of exponent, 7 of fraction.
struct BFloat16 {
  uint16_t bits;
};

NANOCHAT_HD float to_float(BFloat16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

// Round to nearest, ties to even; NaN stays NaN (quiet), where plain rounding could carry it to 0.
NANOCHAT_HD BFloat16 to_bfloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// Rows are computed in Acc<T>: fp32, or fp64 for fp64.
template <typename T>
using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
NANOCHAT_HD Acc<T> load(T x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return to_float(x);
  } else {
    return x;
  }
}

template <typename T>
NANOCHAT_HD void store(T& y, Acc<T> x) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    y = to_bfloat16(x);
  } else {
    y = x;
  }
}

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls f(TypeTag<T>{}) with the floating type that `dtype` names; kInt64 was refused by a check.
template <typename F>
decltype(auto) dispatch_floating(DType dtype, F&& f) {
  if (dtype == DType::kFloat64) return f(TypeTag<double>{});
  if (dtype == DType::kBFloat16) return f(TypeTag<BFloat16>{});
  return f(TypeTag<float>{});
}

[[nodiscard]] inline const char* name(DType dtype) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "float64", "int64"};
  return kNames[static_cast<int>(dtype)];
}

}  // namespace nanochat
