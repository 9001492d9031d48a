// The instructions of mma.cuh as cuda_on_host plays them, against a plain product: small integers,
// so every sum is exact.
#include <cuda_runtime.h>

#include <array>
#include <bit>
#include <cmath>
#include <random>

#include "common/cuda/mma.cuh"
#include "require.h"

namespace {

using namespace nanochat;

constexpr int kM = 16, kN = 8, kK = 16;

struct Product {
  std::array<uint16_t, kM * kK> a;      // (m, k)
  std::array<uint16_t, 2 * kN * kK> b;  // (n, k), or (k, n) if is_transposed
  bool is_fp16, is_transposed;
  std::array<float, kM * 2 * kN> c;  // (m, n)
};

// One warp: both tiles through shared memory, two columns of 8 from one x4 of b.
void product_kernel(Product* p) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  auto* a = reinterpret_cast<uint16_t*>(cuda::dynamic_shared());
  uint16_t* b = a + p->a.size();
  cuda::cp_async_16(a + 8 * lane, p->a.data() + 8 * lane, true);
  cuda::cp_async_16(b + 8 * lane, p->b.data() + 8 * lane, true);
  cuda::cp_async_commit();
  cuda::cp_async_wait<0>();
  __syncthreads();

  uint32_t a_fragment[4], b_fragments[4];
  cuda::ldmatrix_x4(a_fragment, a + lane % 16 * kK + lane / 16 * 8);
  if (p->is_transposed) {
    cuda::ldmatrix_x4_trans(b_fragments, b + lane % 16 * 2 * kN + lane / 16 * 8);
  } else {
    cuda::ldmatrix_x4(b_fragments, b + (lane % 8 + lane / 16 * 8) * kK + lane / 8 % 2 * 8);
  }
  for (int n = 0; n < 2; ++n) {
    float c[4] = {1, 2, 3, 4};
    const uint32_t b_fragment[] = {b_fragments[2 * n], b_fragments[2 * n + 1]};
    if (p->is_fp16) {
      cuda::mma_fp16(c, a_fragment, b_fragment);
    } else {
      cuda::mma_bf16(c, a_fragment, b_fragment);
    }
    for (int i = 0; i < 4; ++i) {
      p->c[(g + i / 2 * 8) * 2 * kN + n * kN + 2 * t + i % 2] = c[i] - static_cast<float>(i + 1);
    }
  }
}

template <typename... Arguments>
void launch(void (*kernel)(Arguments...), size_t shared_bytes, Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(32);
  config.dynamicSmemBytes = shared_bytes;
  REQUIRE(cudaLaunchKernelEx(&config, kernel, arguments...) == cudaSuccess);
}

void test_products_are_exact() {
  std::mt19937 rng(1);
  for (const bool is_fp16 : {false, true}) {
    for (const bool is_transposed : {false, true}) {
      std::array<float, kM * kK> a;
      std::array<float, 2 * kN * kK> b;  // (n, k)
      Product p{};
      p.is_fp16 = is_fp16;
      p.is_transposed = is_transposed;
      const auto bits = [&](float x) {
        return is_fp16 ? std::bit_cast<uint16_t>(static_cast<_Float16>(x)) : to_bfloat16(x).bits;
      };
      for (float& x : a) x = static_cast<float>(static_cast<int>(rng() % 31) - 15);
      for (float& x : b) x = static_cast<float>(static_cast<int>(rng() % 31) - 15);
      for (size_t i = 0; i < a.size(); ++i) p.a[i] = bits(a[i]);
      for (int n = 0; n < 2 * kN; ++n) {
        for (int k = 0; k < kK; ++k) {
          p.b[is_transposed ? k * 2 * kN + n : n * kK + k] = bits(b[n * kK + k]);
        }
      }
      launch(product_kernel, sizeof p.a + sizeof p.b, &p);
      for (int m = 0; m < kM; ++m) {
        for (int n = 0; n < 2 * kN; ++n) {
          float want = 0;
          for (int k = 0; k < kK; ++k) want += a[m * kK + k] * b[n * kK + k];
          REQUIRE(p.c[m * 2 * kN + n] == want);
        }
      }
    }
  }
}

struct Copies {
  alignas(16) std::array<float, 12> from{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  std::array<std::array<float, 12>, 3> seen{};  // after each wait
};

void copy_kernel(Copies* p) {
  if (threadIdx.x != 0) return;
  auto* to = reinterpret_cast<float*>(cuda::dynamic_shared());
  const auto look = [&](int when) { std::copy(to, to + 12, p->seen[when].begin()); };
  cuda::cp_async_16(to, p->from.data(), true);
  cuda::cp_async_commit();
  cuda::cp_async_16(to + 4, nullptr, false);
  cuda::cp_async_commit();
  cuda::cp_async_16(to + 8, p->from.data() + 8, true);
  cuda::cp_async_wait<1>();
  look(0);
  cuda::cp_async_wait<0>();
  look(1);
  cuda::cp_async_commit();
  cuda::cp_async_wait<0>();
  look(2);
}

// NaN until the group is waited for; a copy without a commit is in no group.
void test_copies_arrive_at_the_wait() {
  Copies p;
  launch(copy_kernel, 128, &p);
  const std::array<int, 3> num_arrived = {4, 8, 12};
  for (int when = 0; when < 3; ++when) {
    for (int i = 0; i < 12; ++i) {
      const float x = p.seen[when][i];
      if (i >= num_arrived[when]) {
        REQUIRE(std::isnan(x));
      } else {
        REQUIRE(x == (i / 4 == 1 ? 0.0f : p.from[i]));
      }
    }
  }
}

void test_pack_rounds_to_even() {
  REQUIRE(cuda::pack_bf16(1.0f, -2.0f) == 0xc0003f80u);
  REQUIRE(cuda::pack_bf16(1.0f + 0x1p-8f, 1.0f + 0x3p-8f) == 0x3f823f80u);
}

}  // namespace

int main() {
  test_products_are_exact();
  test_copies_arrive_at_the_wait();
  test_pack_rounds_to_even();
}
