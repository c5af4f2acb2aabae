// Caches in bfloat16 have a form of their own, in attention_pairs_avx512.cpp.
#include "attention_tile.h"

namespace specgrove {

AttentionKernels attention_avx512(DType dtype) {
  return dtype == DType::kFloat16 ? float_attention<Float16>() : float_attention<float>();
}

}  // namespace specgrove
