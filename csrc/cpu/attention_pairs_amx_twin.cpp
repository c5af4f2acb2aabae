#define SPECGROVE_TILE_TWIN
#include "attention_pairs_tiles_of.h"

namespace specgrove {

AttentionKernels attention_pairs_amx_twin() { return pair_attention<Products>(); }

}  // namespace specgrove
