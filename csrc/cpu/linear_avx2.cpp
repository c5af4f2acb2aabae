#include "linear_tile.h"

namespace specgrove {

void linear_tile_avx2(DType dtype, const LinearTile& tile) { linear_tile_of(dtype, tile); }

}  // namespace specgrove
