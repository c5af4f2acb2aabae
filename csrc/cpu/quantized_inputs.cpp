#include "quantized_inputs.h"

#include <algorithm>
#include <cstring>

#include "clones.h"
#include "number_types.h"
#include "rows.h"
#include "scratch.h"

namespace specgrove {
namespace {

constexpr int64_t kChunkInputs = kChunkParts * kPartInputs;
constexpr int64_t kMaxRows = 16;      // that are quantised at a time: those of a tile
constexpr int64_t kWorkPerInput = 4;  // in elements that are read and written cheaply
constexpr float kMaxCode = 127.0f;
// Chunks of smaller numbers are zeros: neither their scale nor its inverse must leave the range of normal numbers.
constexpr float kLeastMagnitude = 0x1p-119f;
constexpr int32_t kInfinity = 0x7f800000;
constexpr int32_t kNotANumber = 0x7fc00000;
// Added to a small number, leaves its nearest integer (ties to even) in the lowest bits.
constexpr float kRounder = 12582912.0f;
constexpr int32_t kRounderBits = 0x4b400000;

// Of kParts parts, as bits: magnitudes are then in the order of the numbers, and what is not a number comes last.
template <int64_t kParts>
[[gnu::always_inline]] inline int32_t largest_magnitude(const float* x) {
  int32_t largest = 0;
  for (int64_t i = 0; i < kParts * kPartInputs; ++i) {
    largest = std::max(largest, static_cast<int32_t>(float_to_bits(x[i]) & 0x7fffffffu));
  }
  return largest;
}

// Writes the codes of kParts parts of inputs, those of a part part_stride bytes after those of the part before, and
// returns their sum.
template <int64_t kParts>
[[gnu::always_inline]] inline int32_t write_codes(const float* x, float inverse, int64_t part_stride, int8_t* codes) {
  int32_t sum = 0;
  for (int64_t part = 0; part < kParts; ++part, x += kPartInputs, codes += part_stride) {
    for (int64_t i = 0; i < kPartInputs; ++i) {
      const float rounded = x[i] * inverse + kRounder;
      const int32_t code = static_cast<int32_t>(float_to_bits(rounded)) - kRounderBits;
      codes[i] = static_cast<int8_t>(code);
      sum += code;
    }
  }
  return sum;
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

// A chunk of at most kMaxRows rows of a tile, or of as many spans of the only row. Strides are of those, but for
// part_stride; those of codes are in bytes.
struct ChunkOfRows {
  const float* x;
  int64_t x_stride, num_parts, num_rows;
  int8_t* codes;
  int64_t row_stride, part_stride;
  float* scales;
  int32_t* starts;
  float* span_sums;  // of the chunks before
};

// In two steps over all rows: a row's codes wait for its scale, which takes long, those of other rows don't.
template <int64_t kParts>
[[gnu::always_inline]] inline void quantize_rows(const ChunkOfRows& chunk) {
  float inverses[kMaxRows];
  for (int64_t row = 0; row < chunk.num_rows; ++row) {
    const int32_t largest = largest_magnitude<kParts>(chunk.x + row * chunk.x_stride);
    const float magnitude = bits_to_float(static_cast<uint32_t>(largest));
    const bool is_finite = largest < kInfinity, is_zero = !(magnitude >= kLeastMagnitude);
    inverses[row] = is_finite && !is_zero ? kMaxCode / magnitude : 0.0f;
    chunk.scales[row] = !is_finite ? bits_to_float(kNotANumber) : is_zero ? 0.0f : magnitude / kMaxCode;
  }
  for (int64_t row = 0; row < chunk.num_rows; ++row) {
    int8_t* const codes = chunk.codes + row * chunk.row_stride;
    int32_t code_sum = 0;
    if (inverses[row] != 0.0f) {
      code_sum = write_codes<kParts>(chunk.x + row * chunk.x_stride, inverses[row], chunk.part_stride, codes);
    } else {
      for (int64_t part = 0; part < kParts; ++part) std::memset(codes + part * chunk.part_stride, 0, kPartInputs);
    }
    chunk.starts[row] = -128 * code_sum;
    chunk.span_sums[row] += chunk.scales[row] * static_cast<float>(code_sum);
  }
}

SPECGROVE_CLONES void quantize(const ChunkOfRows& chunk) {
  chunk.num_parts == 1 ? quantize_rows<1>(chunk) : quantize_rows<kChunkParts>(chunk);
}

// Lets it read a copy of its num_inputs inputs with zeros behind them.
void pad(int64_t num_inputs, float* padded, ChunkOfRows* chunk) {
  for (int64_t row = 0; row < chunk->num_rows; ++row) {
    float* const inputs = padded + row * kChunkInputs;
    std::fill(std::copy_n(chunk->x + row * chunk->x_stride, num_inputs, inputs), inputs + kChunkInputs, 0.0f);
  }
  chunk->x = padded;
  chunk->x_stride = kChunkInputs;
}

// A tile of rows.
struct Tile {
  const InputShape& shape;
  ChunkOrder order;
  const float* x;
  int64_t num_rows;
  Arrays to;
};

// One span of at most kMaxRows rows of a tile; where spans of one chunk make up a tile of one row, as many spans.
void quantize_span(const Tile& tile, int64_t span, int64_t first_row, int64_t num_rows) {
  const InputShape& shape = tile.shape;
  const bool has_one_row = tile.num_rows == 1, is_by_part = tile.order == ChunkOrder::kByPart && !has_one_row;
  const float* x = tile.x + first_row * shape.in_features() + span * shape.span_size;
  float* const span_sums = tile.to.span_sums + span * tile.num_rows + first_row;
  std::fill_n(span_sums, num_rows, 0.0f);
  int64_t part = span * shape.parts_per_span(), number = span * shape.chunks_per_span();
  for (int64_t left = shape.span_size; left > 0; left -= kChunkInputs, x += kChunkInputs, ++number) {
    const int64_t num_parts = std::min(kChunkParts, (left + kPartInputs - 1) / kPartInputs);
    const int64_t row_steps = (is_by_part ? 1 : num_parts) * kPartSteps;
    const int64_t part_steps = (is_by_part ? tile.num_rows : 1) * kPartSteps;
    int32_t* const codes = tile.to.codes + part * tile.num_rows * kPartSteps + first_row * row_steps;
    const int64_t at = number * tile.num_rows + first_row;
    ChunkOfRows chunk{x,
                      has_one_row ? shape.span_size : shape.in_features(),
                      num_parts,
                      num_rows,
                      reinterpret_cast<int8_t*>(codes),
                      row_steps * kStepInputs,
                      part_steps * kStepInputs,
                      tile.to.scales + at,
                      tile.to.starts + at,
                      span_sums};
    float padded[kMaxRows * kChunkInputs];
    if (left < num_parts * kPartInputs) pad(left, padded, &chunk);
    quantize(chunk);
    part += num_parts;
  }
}

}  // namespace

// Spans of rows are shared out in the order of the arrays, a span's rows side by side: threads write lines of their
// own.
QuantizedInputs quantized_inputs(const InputShape& shape, const float* x, int64_t num_rows, const InputTiles& tiles) {
  const Arrays all = room_for(shape, num_rows, tiles.max_rows);
  const int64_t least_tiles = (num_rows + tiles.max_rows - 1) / tiles.max_rows;
  const int64_t tile_rows = (num_rows + least_tiles - 1) / least_tiles;
  for_ranges(num_rows * shape.num_spans, kWorkPerInput * shape.span_size, [&](int64_t first, int64_t end) {
    while (first < end) {
      const int64_t tile_row = first / (tile_rows * shape.num_spans) * tile_rows;
      const Tile tile{
          shape, tiles.order, x + tile_row * shape.in_features(), std::min(tile_rows, num_rows - tile_row),
          Arrays{all.codes + tile_row * shape.num_parts() * kPartSteps, all.scales + tile_row * shape.num_chunks(),
                 all.starts + tile_row * shape.num_chunks(), all.span_sums + tile_row * shape.num_spans}};
      const int64_t in_tile = first - tile_row * shape.num_spans, first_row = in_tile % tile.num_rows;
      const bool are_spans_chunks = tile.num_rows == 1 && shape.chunks_per_span() == 1;
      const int64_t num_left = are_spans_chunks ? shape.num_spans - in_tile : tile.num_rows - first_row;
      const int64_t count = std::min({end - first, num_left, kMaxRows});
      quantize_span(tile, in_tile / tile.num_rows, first_row, count);
      first += count;
    }
  });
  return {tile_rows, all.codes, all.scales, all.starts, all.span_sums};
}

}  // namespace specgrove
