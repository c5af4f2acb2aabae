// Linears of bfloat16 on tiles (AMX): the same arithmetic for any number of rows, one included.
//
// Packed weights of linear.h are tiles as they lie: 32 inputs of a group of 32 outputs are 16 lines of each of its two
// blocks, by turns. An output starts with its bias and takes its products in steps of 32 inputs, in order. Where a sum
// lies between two steps, in a tile or in memory, changes no bit.
#pragma once

#include <cstdint>

#include "linear.h"
#include "row_tiles.h"

namespace specgrove {

// Weights as PackedLinear has them, inputs padded to whole steps.
struct TiledWeights {
  const char* packed;
  int64_t num_groups, group_bytes;
  int64_t out_features, in_features;
  const float* bias;  // padded to whole groups
};

// To the sink, or without one to out.
void multiply_on_tiles(const TiledWeights& weights, const float* x, int64_t num_rows, float* out, TileSink* sink);

// Some row tiles by some groups: one task.
struct TiledLinear {
  const char* packed;  // first group
  int64_t group_bytes, num_groups;
  int64_t num_steps;
  const uint16_t* inputs;  // [row tile][step][row][input of the step]
  RowTiles rows;
  int64_t first_tile, num_tiles;  // of the rows
  const float* bias;
  float* sums;  // for the task alone: [row tile][block][row][output]
  float* out;   // of the first row of all
  int64_t out_stride, num_outputs;
  const char* next;  // groups that the thread is likely to take after these
};

void linear_tiles_amx(const TiledLinear& linear);
void linear_tiles_amx_twin(const TiledLinear& linear);

}  // namespace specgrove
