// Small-batch linears over weights of 8 or 4 bits: weight = scale * code + min, with one scale (and one min) for each
// span of inputs of each output. A span is what checkpoints call a quantisation group; here groups are of outputs.
//
// A group of 32 outputs holds, span by span, its codes, then 32 scales, then 32 mins if there are any: one row of x
// reads memory from front to back. Codes are exact in bfloat16 and multiply x rounded to bfloat16. Every output has one
// accumulator per span, fed in the order of the inputs, and one sum, fed in the order of the spans: as in linear.h, its
// bits don't depend on how many rows there are.
#pragma once

#include <cstdint>
#include <vector>

#include "linear.h"
#include "packed_bytes.h"

namespace specgrove {

// Inputs whose codes lie together: four of 4 bits in 64 bytes, four of 8 bits in 128. Codes of 8 bits are kept as sign
// and magnitude.
constexpr int64_t kStepInputs = 4;

struct QuantizedShape {
  int bits;  // 8 or 4
  int64_t out_features, in_features;
  int64_t span_size;  // divides in_features; a multiple of kStepInputs unless it is all of in_features
  bool has_mins;

  int64_t num_spans() const { return in_features / span_size; }
  int64_t padded_span() const { return round_up(span_size, kStepInputs); }
  int64_t padded_in() const { return num_spans() * padded_span(); }
  int64_t num_groups() const { return round_up(out_features, kGroup) / kGroup; }
  int64_t code_bytes() const { return kGroup * padded_span() * bits / 8; }  // of a span of a group
  int64_t span_bytes() const {
    return code_bytes() + (has_mins ? 2 : 1) * kGroup * static_cast<int64_t>(sizeof(float));
  }
  int64_t group_bytes() const { return num_spans() * span_bytes(); }
  int64_t nbytes() const { return num_groups() * group_bytes(); }
};

class QuantizedLinear : public AnyLinear {
 public:
  // codes are row-major [out_features, in_features], int8 in -127..127 for 8 bits and uint8 in 0..15 for 4; scales and
  // mins are float32 [out_features, num_spans], mins null without any; bias is float32 [out_features] or null.
  QuantizedLinear(const QuantizedShape& shape, const void* codes, const float* scales, const float* mins,
                  const float* bias);
  // packed holds what copy_packed() wrote for the same shape, shape.nbytes() long.
  QuantizedLinear(const QuantizedShape& shape, PackedBytes packed, const float* bias);

  void forward(const float* x, int64_t num_rows, float* out) const override;

  void copy_packed(void* out) const { packed_.copy_to(out); }
  int64_t nbytes() const { return packed_.size(); }

 private:
  QuantizedShape shape_;
  PackedBytes packed_;
  std::vector<float> bias_;  // padded to whole groups; zeros without a bias
};

// One tile: rows of x by groups of outputs that follow one another in packed. Numbers only: an inline function of
// QuantizedShape, compiled with the instructions of a tile's file, could be the copy that the linker keeps for all.
struct QuantizedTile {
  const char* packed;  // first group
  int bits;
  bool has_mins;
  int64_t num_spans;
  int64_t span_inputs;  // padded
  int64_t code_bytes;   // of a span, before its scales
  int64_t span_bytes;   // from one span to the next
  int64_t group_bytes;  // from one group to the next
  const uint16_t* x;    // bfloat16, row stride x_stride elements
  int64_t x_stride;
  const float* span_sums;  // of the rows of x, [num_rows, num_spans]; null without mins
  const float* bias;
  int64_t num_rows;
  int64_t num_groups;
  float* out;  // row stride out_stride
  int64_t out_stride;
  int64_t num_outputs;  // outputs of the tile that exist; the last group may be cut off
};

void quantized_tile_plain(const QuantizedTile& tile);
void quantized_tile_avx2(const QuantizedTile& tile);
void quantized_tile_avx512(const QuantizedTile& tile);

}  // namespace specgrove
