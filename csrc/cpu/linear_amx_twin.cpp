#define SPECGROVE_TILE_TWIN
#include "linear_tiles_of.h"

namespace specgrove {

void linear_tiles_amx_twin(const TiledLinear& linear) { linear_tiles_of(linear); }

}  // namespace specgrove
