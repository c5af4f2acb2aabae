// Activation functions of the MLPs, alone and as the gate of a product.
#pragma once

#include <cstdint>

#include "../cpu/activation.h"
#include "../cpu/number_types.h"
#include "launch.h"

namespace specgrove::cuda {

// x float32 [num_rows, size], or where is_gated [num_rows, 2 size], gates first, to out [num_rows, size] in out_dtype.
void activate(const float* x, Activation activation, bool is_gated, int64_t num_rows, int64_t size, void* out,
              DType out_dtype, Stream stream);

}  // namespace specgrove::cuda
