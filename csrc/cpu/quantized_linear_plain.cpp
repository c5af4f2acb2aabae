#include "quantized_linear_tile.h"

namespace specgrove {

void quantized_tile_plain(const QuantizedTile& tile) { quantized_tile_of<kPlainTileRows>(tile); }

}  // namespace specgrove
