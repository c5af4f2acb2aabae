// The body of tile_product.h, compiled over tiles of either kind.
#include "tile_product.h"
#include "tiles.h"

namespace specgrove {
namespace {

template <typename Dot>
void multiply(const TileProduct& product, const Dot& dot) {
  const int64_t a_bytes = 4 * product.num_words, row_bytes = 4 * product.num_outputs;
  TileConfig config;
  config.set(0, product.num_rows, row_bytes);
  config.set(1, product.num_rows, a_bytes);
  config.set(2, product.num_words, row_bytes);
  tiles_configure(config);
  tile_load<0>(product.c, row_bytes);
  tile_load<1>(product.a, a_bytes);
  tile_load<2>(product.b, row_bytes);
  dot();
  tile_store<0>(product.c, row_bytes);
}

TileProducts tile_products_of() {
  return {[](const TileProduct& product) { multiply(product, [] { tile_dot_bf16<0, 1, 2>(); }); },
          [](const TileProduct& product) { multiply(product, [] { tile_dot_s8<0, 1, 2>(); }); }};
}

}  // namespace
}  // namespace specgrove
