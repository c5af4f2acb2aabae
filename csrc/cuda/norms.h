// Norms of rows, fused with the addition before them and the conversion after them.
#pragma once

#include <cstdint>

#include "../cpu/number_types.h"
#include "launch.h"

namespace specgrove::cuda {

struct RmsNorm {
  float* residual;      // [num_rows, size]; delta is added in place
  const float* delta;   // [num_rows, size], or null
  const float* weight;  // [size]
  float eps;
  int64_t num_rows, size;
  void* out;  // [num_rows, size] in out_dtype
  DType out_dtype;
};

// out = (residual + delta) / sqrt(mean of its squares + eps) * weight, in float32, rounded once.
void rms_norm(const RmsNorm& norm, Stream stream);

}  // namespace specgrove::cuda
