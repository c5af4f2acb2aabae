// Small-batch linears: out[rows, out_features] = x[rows, in_features] * weight^T + bias.
//
// Weights are packed once, in blocks of 16 outputs, so that one vector holds the same input (or pair of inputs) for 16
// outputs. A group of blocks is interleaved input by input: one row of x reads memory from front to back. Every output
// has one accumulator, fed in the order of the inputs: its bits don't depend on how many rows there are.
#pragma once

#include <cstdint>
#include <vector>

#include "any_linear.h"
#include "number_types.h"
#include "packed_bytes.h"

namespace specgrove {

constexpr int64_t kBlock = 16;       // outputs of one block
constexpr int64_t kGroupBlocks = 2;  // blocks of one group
constexpr int64_t kGroup = kGroupBlocks * kBlock;
constexpr int64_t kInputStep = 32;  // inputs of bfloat16 are padded to whole steps: a row of a tile of AMX

static inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// A place for num_floats, of the calling thread. Valid until its next call.
float* tile_buffer(int64_t num_floats);

// Rounds a row of count inputs to bfloat16, in steps of kInputStep that lie step_stride elements apart; the last one is
// padded with zeros.
using RoundRow = void (*)(const float* x, int64_t count, uint16_t* out, int64_t step_stride);
RoundRow bfloat16_rounding();

class PackedLinear : public AnyLinear {
 public:
  // weight is row-major [out_features, in_features]; bias is float32 [out_features] or null.
  PackedLinear(const void* weight, DType dtype, const float* bias, int64_t out_features, int64_t in_features);
  // packed holds what copy_packed() wrote for the same shape, packed_nbytes() long.
  PackedLinear(PackedBytes packed, DType dtype, const float* bias, int64_t out_features, int64_t in_features);
  static int64_t packed_nbytes(DType dtype, int64_t out_features, int64_t in_features);

  void read_ahead() const override { packed_.read_ahead(); }

  void copy_packed(void* out) const { packed_.copy_to(out); }
  int64_t nbytes() const { return packed_.size(); }
  int64_t in_features() const { return in_features_; }
  int64_t out_features() const override { return out_features_; }

 protected:
  void multiply(const float* x, int64_t num_rows, float* out, TileSink* sink) const override;

 private:
  DType dtype_;
  int64_t out_features_, in_features_;
  int64_t padded_in_;
  int64_t num_groups_;
  PackedBytes packed_;
  std::vector<float> bias_;  // padded to whole groups; zeros without a bias
};

// One tile: rows of x by groups of outputs that follow one another in packed.
struct LinearTile {
  const void* packed;   // first group
  int64_t group_bytes;  // from one group to the next
  const void* x;        // float32; on AVX-512 bfloat16 where the weights are. Row stride x_stride elements
  int64_t x_stride;
  const float* bias;
  int64_t depth;  // inputs, padded
  int64_t num_rows;
  int64_t num_groups;
  float* out;  // row stride out_stride
  int64_t out_stride;
  int64_t num_outputs;  // outputs of the tile that exist; the last group may be cut off
};

void linear_tile_plain(DType dtype, const LinearTile& tile);
void linear_tile_avx2(DType dtype, const LinearTile& tile);
void linear_tile_avx512(DType dtype, const LinearTile& tile);
void round_row_plain(const float* x, int64_t count, uint16_t* out, int64_t step_stride);
void round_row_avx512(const float* x, int64_t count, uint16_t* out, int64_t step_stride);

}  // namespace specgrove
