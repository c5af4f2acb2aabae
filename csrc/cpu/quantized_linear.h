// Small-batch linears over weights of 8 or 4 bits: weight = scale * code + min, with one scale (and one min) for each
// span of inputs of each output. A span is what checkpoints call a quantisation group.
//
// x is rounded to codes of 8 bits, chunk by chunk of a span (quantized_inputs.h): products of codes are integers, whose
// sum over a chunk is exact. A block of 16 outputs holds, span by span, its codes, then 16 scales, then 16 mins if
// there are any: one row of x reads memory from front to back. Every output has one total per span, fed in the order of
// the chunks, and one sum, fed in the order of the spans: as in linear.h, its bits don't depend on how many rows there
// are.
#pragma once

#include <cstdint>
#include <vector>

#include "linear.h"
#include "packed_bytes.h"
#include "quantized_inputs.h"

namespace specgrove {

struct QuantizedShape {
  int bits;  // 8 or 4
  int64_t out_features, in_features;
  int64_t span_size;  // divides in_features; a multiple of kStepInputs unless it is all of in_features
  bool has_mins;
  bool has_half_scales;  // kept in float16, as are mins; else in float32

  int64_t num_spans() const { return in_features / span_size; }
  int64_t padded_span() const { return round_up(span_size, kPartInputs); }
  int64_t num_blocks() const { return round_up(out_features, kBlock) / kBlock; }
  int64_t code_bytes() const { return kBlock * padded_span() * bits / 8; }  // of a span of a block
  int64_t span_bytes() const { return code_bytes() + (has_mins ? 2 : 1) * kBlock * (has_half_scales ? 2 : 4); }
  int64_t block_bytes() const { return num_spans() * span_bytes(); }
  int64_t nbytes() const { return num_blocks() * block_bytes(); }
};

class QuantizedLinear : public AnyLinear {
 public:
  // codes are row-major [out_features, in_features], int8 in -127..127 for 8 bits and uint8 in 0..15 for 4; scales and
  // mins are float32 [out_features, num_spans], mins null without any; bias is float32 [out_features] or null. With
  // has_half_scales all of them must be numbers of float16.
  QuantizedLinear(const QuantizedShape& shape, const void* codes, const float* scales, const float* mins,
                  const float* bias);
  // packed holds what copy_packed() wrote for the same shape, shape.nbytes() long.
  QuantizedLinear(const QuantizedShape& shape, PackedBytes packed, const float* bias);

  int64_t out_features() const override { return shape_.out_features; }
  void read_ahead() const override { packed_.read_ahead(); }

  void copy_packed(void* out) const { packed_.copy_to(out); }
  int64_t nbytes() const { return packed_.size(); }

 protected:
  void multiply(const float* x, int64_t num_rows, float* out, TileSink* sink) const override;

 private:
  QuantizedShape shape_;
  PackedBytes packed_;
  std::vector<float> bias_;  // padded to whole blocks; zeros without a bias
};

// One tile: rows of x by blocks of outputs that follow one another in packed. Numbers only: an inline function of
// QuantizedShape, compiled with the instructions of a tile's file, could be the copy that the linker keeps for all.
struct QuantizedTile {
  const char* packed;   // first block
  int64_t block_bytes;  // from one block to the next
  int bits;
  bool has_mins;
  bool has_half_scales;
  int64_t num_spans;
  int64_t parts_per_span;
  QuantizedInputs inputs;
  const float* bias;
  int64_t num_rows;
  int64_t num_blocks;
  float* out;  // row stride out_stride
  int64_t out_stride;
  int64_t num_outputs;  // outputs of the tile that exist; the last block may be cut off
};

// The most rows of a tile of inputs: their accumulators fit into the registers.
constexpr int kPlainTileRows = 2;
constexpr int kAvx2TileRows = 4;
constexpr int kAvx512TileRows = 8;

void quantized_tile_plain(const QuantizedTile& tile);
void quantized_tile_avx2(const QuantizedTile& tile);
void quantized_tile_avx512(const QuantizedTile& tile);
void quantized_tile_amx(const QuantizedTile& tile);
void quantized_tile_amx_twin(const QuantizedTile& tile);

}  // namespace specgrove
