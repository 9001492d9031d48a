// Descriptors, swizzle and fragments as the hardware documents them (cuda_on_host), by one small
// product: c (64 x N) = a (64 x 128) b, with b by columns or by rows, a in shared memory or in
// registers, and all of it through TMA with boxes that stand out of the tensors; and by one with a
// stored by columns, whose result the copy engine adds to memory.
#include <cmath>
#include <random>
#include <vector>

#include "common/cuda/sm90.cuh"
#include "common/cuda/tensor_map.h"
#include "require.h"

namespace nanochat::cuda {
namespace {

constexpr int kM = 64, kK = 128, kPanelBytes = 128 * kPanelRowBytes;

TensorView matrix(std::vector<BFloat16>& data, int64_t rows, int64_t columns) {
  return {.data = data.data(),
          .dtype = DType::kBFloat16,
          .rank = 4,
          .sizes = {1, rows, 1, columns},
          .strides = {7, columns, 7, 1}};
}

// A block of one warpgroup. The fragments go to fp32 memory, and through stmatrix and TMA to bf16.
template <int kN, Major kMajorB, bool kRegistersA>
void product_kernel(const CUtensorMap a_map, const CUtensorMap b_map, const CUtensorMap c_map,
                    const BFloat16* a, float* c_out) {
  uint8_t* const shared = swizzle_aligned_shared();
  uint8_t* const a_tile = shared;
  uint8_t* const b_tile = shared + 2 * kPanelBytes;
  auto* const full = reinterpret_cast<uint64_t*>(shared + 4 * kPanelBytes);
  constexpr int kRowsB = kMajorB == Major::kK ? kN : kK, kColumnsB = kMajorB == Major::kK ? kK : kN;
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(full, (kM * kK + kRowsB * kColumnsB) * 2);
    for (int panel = 0; panel < kK / kPanelColumns; ++panel) {
      tma_load(a_tile + panel * kPanelBytes, &a_map, full, panel * kPanelColumns, 0, 0, 0);
    }
    for (int panel = 0; panel < kColumnsB / kPanelColumns; ++panel) {
      tma_load(b_tile + panel * kPanelBytes, &b_map, full, panel * kPanelColumns, 0, 0, 0);
    }
  }
  mbarrier_wait(full, 0);

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  float c[kN / 2];
  uint32_t a_registers[kK / 16][4];
  for (int step = 0; step < kK / 16; ++step) {
    for (int i = 0; i < 4; ++i) {
      const BFloat16* p = a + (16 * warp + g + i % 2 * 8) * kK + 16 * step + i / 2 * 8 + 2 * t;
      a_registers[step][i] = p[0].bits | static_cast<uint32_t>(p[1].bits) << 16;
    }
  }
  wgmma_fence(c, a_registers);
  for (int step = 0; step < kK / 16; ++step) {
    const int panel = step / 4, column = step % 4 * 16;
    const uint64_t b =
        kMajorB == Major::kK
            ? k_major_descriptor(shared_address(b_tile + panel * kPanelBytes), column)
            : mn_major_descriptor(shared_address(b_tile), step * 16, kPanelBytes);
    if constexpr (kRegistersA) {
      wgmma<kN, kMajorB>(c, a_registers[step], b, step > 0);
    } else {
      wgmma<kN, kMajorB>(
          c, k_major_descriptor(shared_address(a_tile + panel * kPanelBytes), column), b, step > 0);
    }
  }
  wgmma_commit();
  REQUIRE(std::isnan(c[0]));
  wgmma_wait<0>(c, a_registers);
  for (int i = 0; i < kN / 2; ++i) {
    c_out[(16 * warp + g + i / 2 % 2 * 8) * kN + i / 4 * 8 + 2 * t + i % 2] = c[i];
  }

  __syncthreads();
  for (int j = 0; j < kN / 16; ++j) {
    const int row = 16 * warp + lane % 16, chunk = 2 * j % 8 + lane / 16;
    uint32_t r[4];
    for (int i = 0; i < 4; ++i) r[i] = pack_bf16(c[8 * j + 2 * i], c[8 * j + 2 * i + 1]);
    stmatrix_x4(a_tile + j / 4 * kPanelBytes + swizzled_offset(row, chunk), r);
  }
  fence_async_proxy();
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int panel = 0; panel < kN / kPanelColumns; ++panel) {
      tma_store(&c_map, a_tile + panel * kPanelBytes, panel * kPanelColumns, 0, 0, 0);
    }
    tma_store_finish();
  }
}

// `rows_a` rows of a exist, and `rows_b` of what b is in memory: the rest are zeros, and not
// stored.
template <int kN, Major kMajorB, bool kRegistersA>
void test_product(int rows_a, int rows_b) {
  constexpr int kColumnsB = kMajorB == Major::kK ? kK : kN;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<BFloat16> a(kM * kK), b(128 * 128), c(kM * kN, BFloat16{0x7fc0});
  for (BFloat16& x : a) x = to_bfloat16(normal(random));
  for (BFloat16& x : b) x = to_bfloat16(normal(random));
  for (int i = rows_a * kK; i < kM * kK; ++i) a[i] = BFloat16{0};  // what registers see of them
  std::vector<float> out(kM * kN, NAN);

  auto* const kernel = product_kernel<kN, kMajorB, kRegistersA>;
  constexpr int kSharedBytes = 4 * kPanelBytes + 2 * kSwizzleBytes;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  const cudaLaunchConfig_t config{
      .gridDim = {1}, .blockDim = {kWarpgroup}, .dynamicSmemBytes = kSharedBytes};
  cudaLaunchKernelEx(&config, kernel, make_tensor_map(matrix(a, rows_a, kK), kM),
                     make_tensor_map(matrix(b, rows_b, kColumnsB), kMajorB == Major::kK ? kN : kK),
                     make_tensor_map(matrix(c, rows_a, kN), kM), a.data(), out.data());
  for (int i = 0; i < kM; ++i) {
    for (int j = 0; j < kN; ++j) {
      double want = 0.0;
      for (int k = 0; k < kK; ++k) {
        const int row = kMajorB == Major::kK ? j : k, column = kMajorB == Major::kK ? k : j;
        if (row < rows_b)
          want += double{to_float(a[i * kK + k])} * to_float(b[row * kColumnsB + column]);
      }
      REQUIRE(std::abs(out[i * kN + j] - want) < 1e-4);
      REQUIRE(c[i * kN + j].bits ==
              (i < rows_a ? to_bfloat16(out[i * kN + j]) : BFloat16{0x7fc0}).bits);
    }
  }
}

template <int kN>
void test_products() {
  test_product<kN, Major::kK, false>(64, kN);
  test_product<kN, Major::kK, true>(50, kN - 7);
  test_product<kN, Major::kMN, false>(64, 101);
  test_product<kN, Major::kMN, true>(64, kK);
}

// sum (64 x 32) += a^T b, of which a (64 x 64) and b (64 x 64, its right half) are stored by k;
// once more from the same staged tile.
void transposed_kernel(const CUtensorMap a_map, const CUtensorMap b_map, float* sum) {
  constexpr int kN = 32, kBytes = 64 * kPanelRowBytes;
  uint8_t* const shared = swizzle_aligned_shared();
  auto* const staged = reinterpret_cast<float*>(shared + 2 * kBytes);
  auto* const full = reinterpret_cast<uint64_t*>(shared + 3 * kBytes);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init_fence();
    mbarrier_arrive_expect(full, 2 * kBytes);
    tma_load(shared, &a_map, full, 0, 0, 0, 0);
    tma_load(shared + kBytes, &b_map, full, 0, 0, 0, 0);
  }
  __syncthreads();
  mbarrier_wait(full, 0);
  float c[kN / 2];
  wgmma_fence(c);
  for (int k = 0; k < 64; k += 16) {
    const uint32_t b = shared_address(shared + kBytes) + kN * 2;
    wgmma<kN, Major::kMN, Major::kMN>(c, mn_major_descriptor(shared_address(shared), k, 0),
                                      mn_major_descriptor(b, k, 0), k > 0);
  }
  wgmma_commit();
  wgmma_wait<0>(c);
  const int thread = static_cast<int>(threadIdx.x);
  for (int j = 0; j < kN / 8; ++j) {
    store_staged(staged + (j * kWarpgroup + thread) * 4, c[4 * j], c[4 * j + 1], c[4 * j + 2],
                 c[4 * j + 3]);
  }
  fence_async_proxy();
  __syncthreads();
  if (thread == 0) {
    bulk_add(sum, staged, kM * kN * 4);
    tma_store_commit();
    tma_store_wait_read();
    REQUIRE(sum[0] == 1.0f);  // read, and not yet added
    bulk_add(sum, staged, kM * kN * 4 - 16);
    tma_store_finish();
  }
}

void test_transposed() {
  constexpr int kN = 32;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<BFloat16> a(64 * 64), b(64 * 64);
  for (BFloat16& x : a) x = to_bfloat16(normal(random));
  for (BFloat16& x : b) x = to_bfloat16(normal(random));
  std::vector<float> sum(kM * kN, 1.0f);
  constexpr int kSharedBytes = 3 * 64 * kPanelRowBytes + 2 * kSwizzleBytes;
  cudaFuncSetAttribute(transposed_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       kSharedBytes);
  const cudaLaunchConfig_t config{
      .gridDim = {1}, .blockDim = {kWarpgroup}, .dynamicSmemBytes = kSharedBytes};
  cudaLaunchKernelEx(&config, transposed_kernel, make_tensor_map(matrix(a, 64, 64), 64),
                     make_tensor_map(matrix(b, 64, 64), 64), sum.data());
  for (int at = 0; at < kM * kN; ++at) {  // in the order of registers
    const int thread = at / 4 % kWarpgroup, i = at % 4;
    const int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 * 8;
    const int column = kN + at / 4 / kWarpgroup * 8 + thread % 4 * 2 + i % 2;
    double want = 0.0;
    for (int k = 0; k < 64; ++k) {
      want += double{to_float(a[k * 64 + row])} * to_float(b[k * 64 + column]);
    }
    const double times = at < kM * kN - 4 ? 2.0 : 1.0;
    REQUIRE(std::abs(sum[at] - (1.0 + times * want)) < 1e-4);
  }
}

// Against bits put together by hand from the tables of the PTX manual.
void test_descriptors() {
  REQUIRE(k_major_descriptor(0x400, 0) == 0x4000'0040'0000'0040);
  REQUIRE(k_major_descriptor(0x2400, 48) == 0x4000'0040'0000'0246);
  REQUIRE(mn_major_descriptor(0x400, 16, 16384) == 0x4000'0040'0400'00c0);
  REQUIRE(mn_major_descriptor(0x3'8000, 0, 8192) == 0x4000'0040'0200'3800);
  for (int row = 0; row < 16; ++row) {
    for (int chunk = 0; chunk < 8; ++chunk) {
      const uint32_t plain = static_cast<uint32_t>(row * kPanelRowBytes + chunk * 16);
      REQUIRE(swizzled_offset(row, chunk) == static_cast<int>(on_host::swizzled(plain)));
    }
  }
}

void test_maps() {
  std::vector<BFloat16> data(64 * 64);
  TensorView view = matrix(data, 64, 64);
  REQUIRE(fits_tensor_map(view));
  view.strides[1] = 68;
  REQUIRE(!fits_tensor_map(view));
  view.strides[1] = 0;
  REQUIRE(!fits_tensor_map(view));
  view = matrix(data, 8, 64);
  view.data = data.data() + 4;
  REQUIRE(!fits_tensor_map(view));
  view = matrix(data, 8, 64);
  view.dtype = DType::kFloat32;
  REQUIRE(!fits_tensor_map(view));
}

}  // namespace
}  // namespace nanochat::cuda

int main() {
  nanochat::cuda::test_descriptors();
  nanochat::cuda::test_maps();
  for (const auto loads : {nanochat::cuda::Loads::kAtOnce, nanochat::cuda::Loads::kNewestFirst}) {
    nanochat::cuda::tma_loads = loads;
    nanochat::cuda::test_products<64>();
    nanochat::cuda::test_products<128>();
    nanochat::cuda::test_transposed();
  }
}
