#include "tile_product.h"

#include "isa.h"
#include "tile_state.h"

namespace specgrove {
namespace {

TileProducts products() { return current_isa() == Isa::kAmx ? tile_products_amx() : tile_products_amx_twin(); }

}  // namespace

void tile_product_bf16(const TileProduct& product) {
  const TilesInUse in_use;
  products().bf16(product);
}

void tile_product_s8(const TileProduct& product) {
  const TilesInUse in_use;
  products().s8(product);
}

}  // namespace specgrove
