// Hidden states as they travel: rows of float32 matrices, rounded to bfloat16.
#pragma once

#include <cstdint>
#include <vector>

#include "number_types.h"

namespace specgrove {

// out[rows.size()][matrices.size()][width]: of each of the rows, what all matrices have there. Rows may repeat.
inline void bfloat16_rows(const std::vector<const float*>& matrices, int64_t width, const std::vector<int64_t>& rows,
                          BFloat16* out) {
  for (const int64_t row : rows) {
    for (const float* const matrix : matrices) {
      for (int64_t i = 0; i < width; ++i) from_float(matrix[row * width + i], out++);
    }
  }
}

}  // namespace specgrove
