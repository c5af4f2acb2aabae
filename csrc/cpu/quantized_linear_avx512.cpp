// Compiled with AVX-512 and VNNI whatever the machine that builds; called only where the processor has them.
#include "quantized_linear_tile.h"

namespace specgrove {

void quantized_tile_avx512(const QuantizedTile& tile) { quantized_tile_of<kAvx512TileRows>(tile); }

}  // namespace specgrove
