#include "linear_tile.h"

namespace specgrove {

void linear_tile_plain(DType dtype, const LinearTile& tile) { linear_tile_of(dtype, tile); }

void round_row_plain(const float* x, int64_t count, uint16_t* out, int64_t step_stride) {
  for (int64_t first = 0; first < count; first += kInputStep, out += step_stride) {
    for (int64_t i = 0; i < kInputStep; ++i) {
      BFloat16 rounded;
      from_float(first + i < count ? x[first + i] : 0.0f, &rounded);
      out[i] = rounded.bits;
    }
  }
}

}  // namespace specgrove
