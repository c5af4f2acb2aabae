#include "attention_tile.h"

namespace specgrove {

AttentionKernels attention_avx2(DType dtype) {
  return with_type(dtype, [](auto* type) { return float_attention<std::remove_pointer_t<decltype(type)>>(); });
}

}  // namespace specgrove
