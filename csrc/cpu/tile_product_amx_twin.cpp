#define SPECGROVE_TILE_TWIN
#include "tile_product_of.h"

namespace specgrove {

TileProducts tile_products_amx_twin() { return tile_products_of(); }

}  // namespace specgrove
