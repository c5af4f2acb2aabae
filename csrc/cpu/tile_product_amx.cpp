#include "tile_product_of.h"

namespace specgrove {

TileProducts tile_products_amx() { return tile_products_of(); }

}  // namespace specgrove
