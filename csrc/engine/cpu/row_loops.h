// What happens to one token between products: norms, rotation, the way into products and pages.
#pragma once

#include "engine/cpu/lanes.h"

namespace nanochat::engine {
namespace {

template <int N, bool dot, Precision precision>
struct RowLoops : Lanes<N, dot, precision> {
  using Base = Lanes<N, dot, precision>;
  using Base::kHalf, Base::put_input;
  using typename Base::Bytes, typename Base::Cached, typename Base::Input, typename Base::V,
      typename Base::Words;

  static void to_inputs(const float* x, int64_t n, void* out) {
    auto* const to = static_cast<Input*>(out);
    simd::for_each_step<V, float>(n, [&](auto tag, int64_t i) {
      using F = typename decltype(tag)::type;
      put_input(to + i, simd::read<F>(x + i));
    });
  }

  static float norm(const float* x, int64_t n, float eps, void* out) {
    simd::RowSum<V, float> squares;
    simd::for_each_step<V, float>(n, [&](auto tag, int64_t i) {
      const auto v = simd::read<typename decltype(tag)::type>(x + i);
      squares.add(v * v);
    });
    const float inv_rms = 1.0f / __builtin_sqrtf(squares.total() / static_cast<float>(n) + eps);
    auto* const to = static_cast<Input*>(out);
    simd::for_each_step<V, float>(n, [&](auto tag, int64_t i) {
      using F = typename decltype(tag)::type;
      put_input(to + i, simd::read<F>(x + i) * inv_rms);
    });
    return inv_rms;
  }

  static void quantize(const void* inputs, int64_t n, void* out) {
    const auto* const from = static_cast<const Input*>(inputs);
    auto* const to = static_cast<uint8_t*>(out) + kQuantizedHeader;
    V max_lanes = {};
    float max = 0;
    simd::for_each_step<V, float>(n, [&](auto tag, int64_t i) {
      using F = typename decltype(tag)::type;
      const F x = simd::read<F>(from + i), size = x < 0.0f ? -x : x;
      if constexpr (simd::kIsVector<F>) {
        max_lanes = size > max_lanes ? size : max_lanes;
      } else {
        max = size > max ? size : max;
      }
    });
    for (int i = 0; i < N; ++i) max = max_lanes[i] > max ? max_lanes[i] : max;
    constexpr float kLargest = 32639;  // its high byte is 127 after rounding
    const float scale = max / kLargest;
    const float factor = max > 0 ? kLargest / max : 0;
    __builtin_memcpy(out, &scale, sizeof(scale));
    // 1.5 * 2^23: adding it leaves the integer in the low bits. And 128 is added to both bytes, so
    // that they are unsigned.
    constexpr float kRound = 12582912.0f;
    constexpr uint32_t kOffset = 0x8080u - __builtin_bit_cast(uint32_t, kRound);
    int64_t i = 0;
    for (; i + N <= n; i += N) {
      const V rounded = simd::read<V>(from + i) * factor + kRound;
      const Words q = __builtin_bit_cast(Words, rounded) + kOffset;
      const Bytes high = __builtin_convertvector(q >> 8 & 0xffu, Bytes);
      const Bytes low = __builtin_convertvector(q & 0xffu, Bytes);
      __builtin_memcpy(to + i, &high, sizeof(high));
      __builtin_memcpy(to + n + i, &low, sizeof(low));
    }
    for (; i < n; ++i) {
      const uint32_t q = __builtin_bit_cast(uint32_t, load(from[i]) * factor + kRound) + kOffset;
      to[i] = static_cast<uint8_t>(q >> 8);
      to[n + i] = static_cast<uint8_t>(q);
    }
  }

  static void rope_norm(float* x, int64_t D, const float* cos, const float* sin, float eps,
                        float scale) {
    const int64_t half = D / 2;
    simd::RowSum<V, float> squares;
    simd::for_each_step<V, float>(half, [&](auto tag, int64_t i) {
      using F = typename decltype(tag)::type;
      const F first = simd::read<F>(x + i), second = simd::read<F>(x + half + i);
      const F c = simd::read<F>(cos + i), s = simd::read<F>(sin + i);
      const F y1 = first * c + second * s, y2 = second * c - first * s;
      simd::write(x + i, y1);
      simd::write(x + half + i, y2);
      squares.add(y1 * y1 + y2 * y2);
    });
    const float factor = scale / __builtin_sqrtf(squares.total() / static_cast<float>(D) + eps);
    for (int64_t i = 0; i < D; ++i) x[i] *= factor;
  }

  static void store_key(const float* x, int64_t D, int slot, char* keys) {
    auto* const block = reinterpret_cast<Cached*>(keys) + slot / kBlockColumns * kBlockColumns * D;
    const int64_t lane = slot % kBlockColumns;
    if constexpr (kHalf) {
      for (int64_t d = 0; d < D; ++d) {
        block[(d / 2 * kBlockColumns + lane) * 2 + d % 2] = to_bfloat16(x[d]);
      }
    } else {
      for (int64_t d = 0; d < D; ++d) block[d * kBlockColumns + lane] = x[d];
    }
  }

  static void store_value(const float* x, int64_t D, int slot, char* values) {
    auto* const row = reinterpret_cast<Cached*>(values) + slot * D;
    simd::for_each_step<V, float>(D, [&](auto tag, int64_t i) {
      simd::write(row + i, simd::read<typename decltype(tag)::type>(x + i));
    });
  }
};

}  // namespace
}  // namespace nanochat::engine
