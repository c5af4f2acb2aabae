#include "attention_tile.h"

namespace specgrove {

AttentionKernels attention_plain() { return {attention_tile_of, attention_merge_of}; }

}  // namespace specgrove
