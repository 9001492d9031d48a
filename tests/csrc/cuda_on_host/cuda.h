// The driver's tensor maps for cuda_runtime.h beside it: what the encoder is told, kept in the open
// after the checks that the driver makes.
#pragma once

#include <cuda_runtime.h>

#define __grid_constant__
#define CUDART_VERSION 13000

using cuuint32_t = uint32_t;
using cuuint64_t = uint64_t;
enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 };
enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_NONE = 0, CU_TENSOR_MAP_SWIZZLE_128B = 3 };
enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3 };
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0 };

struct CUtensorMap {
  static constexpr int kRank = 4;
  char* base;
  uint64_t sizes[kRank];
  uint64_t strides[kRank];  // bytes
  uint32_t box[kRank];
};

inline CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType /*bf16*/,
                                       cuuint32_t rank, void* base, const cuuint64_t* sizes,
                                       const cuuint64_t* strides, const cuuint32_t* box,
                                       const cuuint32_t* steps, CUtensorMapInterleave /*none*/,
                                       CUtensorMapSwizzle swizzle, CUtensorMapL2promotion /*any*/,
                                       CUtensorMapFloatOOBfill /*zeros*/) {
  constexpr uint64_t kElementBytes = 2, kSpan = 128;  // of the swizzle
  bool is_valid = rank == CUtensorMap::kRank && reinterpret_cast<uintptr_t>(base) % 16 == 0 &&
                  swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * kElementBytes <= kSpan;
  map->base = static_cast<char*>(base);
  map->strides[0] = kElementBytes;
  for (int i = 0; i < CUtensorMap::kRank; ++i) {
    map->sizes[i] = sizes[i];
    map->box[i] = box[i];
    is_valid = is_valid && sizes[i] >= 1 && sizes[i] <= uint64_t{1} << 32 && box[i] >= 1 &&
               box[i] <= 256 && steps[i] == 1;
    if (i == 0) continue;
    map->strides[i] = strides[i - 1];
    is_valid = is_valid && strides[i - 1] % 16 == 0 && strides[i - 1] < uint64_t{1} << 40;
  }
  return is_valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess };
enum { cudaEnableDefault };

inline cudaError_t cudaGetDriverEntryPointByVersion(const char* /*cuTensorMapEncodeTiled*/,
                                                    void** entry, unsigned /*version*/,
                                                    unsigned long long /*flags*/,
                                                    cudaDriverEntryPointQueryResult* found) {
  *entry = reinterpret_cast<void*>(&cuTensorMapEncodeTiled);
  *found = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
