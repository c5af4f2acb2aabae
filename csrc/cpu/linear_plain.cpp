#include "linear_tile.h"

namespace specgrove {

void linear_tile_plain(DType dtype, const LinearTile& tile) { linear_tile_of(dtype, tile); }

void to_bfloat16_plain(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    BFloat16 rounded;
    from_float(x[i], &rounded);
    out[i] = rounded.bits;
  }
}

}  // namespace specgrove
