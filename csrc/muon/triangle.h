// Tiles on and above the diagonal of a square of tiles, counted column by column:
//
//   0  1  3  6
//      2  4  7
//         5  8
//            9
#pragma once

#include <cmath>

#include "common/dtype.h"

namespace nanochat::muon {

struct TilePlace {
  int row, column;
};

[[nodiscard]] constexpr int num_triangle_tiles(int size) {
  return size * (size + 1) / 2;
}

NANOCHAT_HD TilePlace triangle_tile(int index) {
  // The largest column with column (column + 1) / 2 <= index. fp32 finds the first tile of a column
  // exactly, since 8 index + 1 is a square there; the last one it may take for the next column's.
  int column = static_cast<int>((sqrtf(8.0f * static_cast<float>(index) + 1.0f) - 1.0f) * 0.5f);
  if (num_triangle_tiles(column) > index) --column;
  return {index - num_triangle_tiles(column), column};
}

}  // namespace nanochat::muon
