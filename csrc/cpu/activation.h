// Activation functions of the MLPs, alone and as the gate of a product: element by element.
#pragma once

#include <cstdint>

namespace specgrove {

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };

// x[rows, size] -> out[rows, size]
void activate(const float* x, Activation activation, int64_t num_rows, int64_t size, float* out);
// gate_up[rows, 2 * size] -> out[rows, size] = activation(gate) * up
void gated(const float* gate_up, Activation activation, int64_t num_rows, int64_t size, float* out);

}  // namespace specgrove
