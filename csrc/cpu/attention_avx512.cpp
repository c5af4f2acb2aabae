#include "attention_tile.h"

namespace specgrove {

void attention_tile_avx512(DType dtype, const AttentionTile& tile) { attention_tile_of(dtype, tile); }

}  // namespace specgrove
