#include "quantized_linear_tile.h"

namespace specgrove {

void quantized_tile_avx2(const QuantizedTile& tile) { quantized_tile_of<kAvx2TileRows>(tile); }

}  // namespace specgrove
