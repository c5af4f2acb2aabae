// Compiled with AVX-512 and VNNI, as quantized_linear_avx512.cpp is; called only where tiles are there beside them.
#include "quantized_linear_amx_of.h"

namespace specgrove {

void quantized_tile_amx(const QuantizedTile& tile) { quantized_tile_of_tiles(tile); }

}  // namespace specgrove
