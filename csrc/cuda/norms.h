// Norms of rows, fused with the addition before them and the conversion after them; and norms of heads.
#pragma once

#include <cstdint>

#include "../cpu/number_types.h"
#include "launch.h"

namespace specgrove::cuda {

struct Norm {
  float* residual;      // [num_rows, size]; without rows delta is added in place
  const float* delta;   // [num_rows, size], or null
  const float* weight;  // [size]
  const float* bias;    // [size], or null
  const int32_t* rows;  // [num_out_rows]: the rows to norm, and nothing is written but out; or null: all, in order
  float eps;
  int64_t num_out_rows, size;
  void* out;  // [num_out_rows, size] in out_dtype
  DType out_dtype;
};

// out = x / sqrt(mean of its squares + eps) * weight + bias for x = residual + delta, in float32, rounded once.
void rms_norm(const Norm& norm, Stream stream);

// The same, for x less its mean.
void layer_norm(const Norm& norm, Stream stream);

struct HeadNorm {
  float* qkv;           // [num_rows, width]; heads are normed in place
  const float* weight;  // [head_dim]
  float eps;
  int64_t num_rows, width, first_head, num_heads, head_dim;
};

// rms_norm of each head alone: columns first_head * head_dim to (first_head + num_heads) * head_dim.
void head_rms_norm(const HeadNorm& norm, Stream stream);

}  // namespace specgrove::cuda
