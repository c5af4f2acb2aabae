#include "attention_pairs_tiles_of.h"

namespace specgrove {

AttentionKernels attention_pairs_amx() { return pair_attention<Products>(); }

}  // namespace specgrove
