// Linears of few rows: weights of 4, 8 or 16 bits stream past rows that stay where they are.
#pragma once

#include <cstdint>

#include "../cpu/number_types.h"
#include "launch.h"

namespace specgrove::cuda {

constexpr int kChunk = 64;                               // inputs that a warp multiplies at a time
constexpr int kLinearWarps = 4, kLinearOutputs = 32;     // of a block; outputs of a warp
constexpr int kLinearMaxRows = 64, kLinearMaxTiles = 8;  // of a tile; tiles that leave partial sums at a time

struct SmallLinear {
  const void* x;       // [num_rows, in_features] in dtype; in_features is a multiple of 8
  const void* weight;  // packed by specgrove/kernels/cuda/linear.py
  const void* scales;  // packed likewise; null for 16 bits
  const float* bias;   // [out_features], or null
  float* out;          // [num_rows, out_features]
  float* partials;     // [kLinearMaxTiles, num_blocks, num_splits, 32 * 64], where num_splits > 1
  uint32_t* counters;  // [kLinearMaxTiles, num_blocks], zero before and after each launch
  int64_t num_rows, in_features, out_features;
  int group_size;  // inputs that share a scale, a multiple of 16
  int num_groups;
  int num_splits;      // a function of the linear's shape only
  int num_processors;  // that run blocks side by side
  int bits;            // 4, 8 or 16
  bool has_mins, has_half_scales;
  DType dtype;  // float16 or bfloat16
};

// How a launch shares a linear out.
struct LinearGrid {
  int slices_per_block;   // of a split's four
  uint64_t group_factor;  // 2^32 / (group_size / 16), rounded up
};

// Which row is summed up in which order depends on in_features and num_splits, and on nothing else.
void small_linear(const SmallLinear& linear, Stream stream);

}  // namespace specgrove::cuda
