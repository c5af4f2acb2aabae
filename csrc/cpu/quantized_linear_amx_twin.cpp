#define SPECGROVE_TILE_TWIN
#include "quantized_linear_amx_of.h"

namespace specgrove {

void quantized_tile_amx_twin(const QuantizedTile& tile) { quantized_tile_of_tiles(tile); }

}  // namespace specgrove
