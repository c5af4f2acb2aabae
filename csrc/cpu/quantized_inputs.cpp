#include "quantized_inputs.h"

#include <algorithm>
#include <cstring>

#include "clones.h"
#include "number_types.h"
#include "rows.h"
#include "scratch.h"

namespace specgrove {
namespace {

constexpr float kMaxCode = 127.0f;
// Chunks of smaller numbers are zeros: neither their scale nor its inverse must leave the range of normal numbers.
constexpr float kLeastMagnitude = 0x1p-119f;
constexpr uint32_t kInfinity = 0x7f800000u;
// Added to a small number, leaves its nearest integer (ties to even) in the lowest bits.
constexpr float kRounder = 12582912.0f;

struct Chunk {
  float scale;
  int32_t code_sum;
};

// Codes of num_inputs numbers, a multiple of kPartInputs; those of a part lie part_stride bytes after those of the part
// before.
SPECGROVE_CLONES Chunk quantize_chunk(const float* x, int64_t num_parts, int64_t part_stride, int8_t* codes) {
  const int64_t num_inputs = num_parts * kPartInputs;
  int32_t largest = 0;  // magnitudes, as bits, are in the order of the numbers; what is not a number comes last
  for (int64_t i = 0; i < num_inputs; ++i) {
    largest = std::max(largest, static_cast<int32_t>(float_to_bits(x[i]) & 0x7fffffffu));
  }
  const float magnitude = bits_to_float(static_cast<uint32_t>(largest));
  if (!(magnitude >= kLeastMagnitude) || static_cast<uint32_t>(largest) >= kInfinity) {
    for (int64_t part = 0; part < num_parts; ++part) std::memset(codes + part * part_stride, 0, kPartInputs);
    return {static_cast<uint32_t>(largest) >= kInfinity ? bits_to_float(0x7fc00000u) : 0.0f, 0};
  }
  const float inverse = kMaxCode / magnitude;
  int32_t sum = 0;
  for (int64_t part = 0; part < num_parts; ++part, x += kPartInputs, codes += part_stride) {
    for (int64_t i = 0; i < kPartInputs; ++i) {
      const float rounded = x[i] * inverse + kRounder;
      const int32_t code = static_cast<int32_t>(float_to_bits(rounded)) - 0x4b400000;
      codes[i] = static_cast<int8_t>(code);
      sum += code;
    }
  }
  return {magnitude / kMaxCode, sum};
}

// Where the arrays of QuantizedInputs are written.
struct Arrays {
  int32_t* codes;
  float* scales;
  int32_t* starts;
  float* span_sums;
};

// Of the calling thread, for all threads. What may be read behind the last row holds anything.
Arrays room_for(const InputShape& shape, int64_t num_rows, int64_t max_tile_rows) {
  thread_local Scratch<int32_t> codes, starts;
  thread_local Scratch<float> scales, span_sums;
  return {codes.room((num_rows * shape.num_parts() + max_tile_rows * kChunkParts) * kPartSteps),
          scales.room(num_rows * shape.num_chunks()), starts.room(num_rows * shape.num_chunks()),
          span_sums.room(num_rows * shape.num_spans)};
}

// One row of a tile.
void quantize_row(const InputShape& shape, ChunkOrder order, const float* x, int64_t first_row, int64_t row,
                  int64_t tile_rows, const Arrays& arrays) {
  const int64_t place = row - first_row;
  int32_t* codes = arrays.codes + first_row * shape.num_parts() * kPartSteps;
  float* scale = arrays.scales + first_row * shape.num_chunks() + place;
  int32_t* start = arrays.starts + first_row * shape.num_chunks() + place;
  float* span_sum = arrays.span_sums + first_row * shape.num_spans + place;
  const int64_t part_stride = order == ChunkOrder::kByPart ? tile_rows * kPartSteps : kPartSteps;
  for (int64_t span = 0; span < shape.num_spans; ++span, span_sum += tile_rows) {
    float sum = 0.0f;
    for (int64_t left = shape.span_size; left > 0; left -= kChunkParts * kPartInputs) {
      const int64_t num_inputs = std::min(kChunkParts * kPartInputs, left);
      const int64_t num_parts = (num_inputs + kPartInputs - 1) / kPartInputs;
      float padded[kChunkParts * kPartInputs];
      const bool is_whole = num_inputs == num_parts * kPartInputs;
      if (!is_whole) std::fill(std::copy(x, x + num_inputs, padded), padded + num_parts * kPartInputs, 0.0f);
      const int64_t row_stride = order == ChunkOrder::kByPart ? kPartSteps : num_parts * kPartSteps;
      const Chunk chunk = quantize_chunk(is_whole ? x : padded, num_parts, part_stride * kStepInputs,
                                         reinterpret_cast<int8_t*>(codes + place * row_stride));
      x += num_inputs;
      codes += num_parts * tile_rows * kPartSteps;
      *scale = chunk.scale;
      *start = -128 * chunk.code_sum;
      scale += tile_rows;
      start += tile_rows;
      sum += chunk.scale * static_cast<float>(chunk.code_sum);
    }
    *span_sum = sum;
  }
}

}  // namespace

QuantizedInputs quantized_inputs(const InputShape& shape, const float* x, int64_t num_rows, const InputTiles& tiles) {
  const Arrays arrays = room_for(shape, num_rows, tiles.max_rows);
  const int64_t least_tiles = (num_rows + tiles.max_rows - 1) / tiles.max_rows;
  const int64_t tile_rows = (num_rows + least_tiles - 1) / least_tiles;
  for_rows(num_rows, 2 * shape.in_features(), [&](int64_t row) {
    const int64_t first_row = row / tile_rows * tile_rows, end_row = std::min(num_rows, first_row + tile_rows);
    quantize_row(shape, tiles.order, x + row * shape.in_features(), first_row, row, end_row - first_row, arrays);
  });
  return {tile_rows, arrays.codes, arrays.scales, arrays.starts, arrays.span_sums};
}

}  // namespace specgrove
