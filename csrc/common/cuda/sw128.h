// The one layout that Hopper tiles have in shared memory: panels of rows of 128 bytes (64 bf16),
// the 16-byte chunks of row r permuted by xor with r % 8. A tile of D columns is D / 64 panels, one
// after another. TMA writes it (CU_TENSOR_MAP_SWIZZLE_128B), wgmma reads it by descriptor, and the
// banks of any 8 x 16-byte matrix, by row or by column, are all different.
//
//   descriptor bits   0-13  start address / 16
//                    16-29  leading offset / 16: from one panel to the next (MN-major only)
//                    32-45  stride offset / 16: from 8 rows to the next 8, always 1024 bytes
//                    62-63  1: swizzle of 128 bytes
//
// Source: PTX ISA, "Matrix descriptor format" and "Shared memory matrix layout" of wgmma.
#pragma once

#include "common/dtype.h"

namespace nanochat::cuda {

inline constexpr int kPanelColumns = 64;  // bf16
inline constexpr int kPanelRowBytes = 128;
inline constexpr int kSwizzleBytes = 1024;  // the pattern repeats; where a panel may begin

// Byte offset of a 16-byte chunk (8 bf16) within its panel.
NANOCHAT_HD int swizzled_offset(int row, int chunk) {
  return row * kPanelRowBytes + ((chunk ^ (row % 8)) * 16);
}

NANOCHAT_HD uint64_t sw128_descriptor(uint32_t address, uint32_t leading_bytes) {
  constexpr uint64_t kStride = kSwizzleBytes >> 4, kSwizzle128 = 1;
  return (address & 0x3ffffu) >> 4 | uint64_t{leading_bytes >> 4} << 16 | kStride << 32 |
         kSwizzle128 << 62;
}

// Operand whose k is contiguous, from `column`, a multiple of 16; its other dimension is the rows.
NANOCHAT_HD uint64_t k_major_descriptor(uint32_t panel, int column) {
  return sw128_descriptor(panel + static_cast<uint32_t>(column * 2), 0);
}

// Operand whose k runs down the rows, from `row`, a multiple of 16; its other dimension is the
// columns of this panel and of those that follow at `panel_bytes`.
NANOCHAT_HD uint64_t mn_major_descriptor(uint32_t panel, int row, int panel_bytes) {
  return sw128_descriptor(panel + static_cast<uint32_t>(row * kPanelRowBytes),
                          static_cast<uint32_t>(panel_bytes));
}

}  // namespace nanochat::cuda
