// Inputs of the quantised linears as codes of 8 bits: x = scale * code, with codes in -127..127 and one scale for every
// chunk of up to 64 inputs of a row. One scale for a whole row would not do: a few inputs of a row are a hundred times
// as large as the rest, which would be left with two or three bits. Shorter chunks would be more exact still, but
// turning their integer sums into floats costs a product's time for each.
//
// Every instruction set makes the same codes and scales. They lie tile by tile, so that a tile of rows reads memory
// from front to back.
#pragma once

#include <cstdint>

namespace specgrove {

constexpr int64_t kStepInputs = 4;   // codes of a row that are multiplied by one instruction
constexpr int64_t kPartInputs = 32;  // a span is padded with zeros to whole parts
constexpr int64_t kPartSteps = kPartInputs / kStepInputs;
constexpr int64_t kChunkParts = 2;  // that share a scale; the last chunk of a span may have fewer

struct InputShape {
  int64_t num_spans, span_size;

  int64_t in_features() const { return num_spans * span_size; }
  int64_t parts_per_span() const { return (span_size + kPartInputs - 1) / kPartInputs; }
  int64_t chunks_per_span() const { return (parts_per_span() + kChunkParts - 1) / kChunkParts; }
  int64_t num_parts() const { return num_spans * parts_per_span(); }
  int64_t num_chunks() const { return num_spans * chunks_per_span(); }
};

// In which order the codes of a chunk of a tile's rows lie. Steps of all rows at a time read fewer lines by part; the
// tiles of AMX read whole chunks of a row.
enum class ChunkOrder { kByPart, kByRow };

struct InputTiles {
  int64_t max_rows;
  ChunkOrder order;
};

// Arrays of tiles of rows, one tile after the other.
struct QuantizedInputs {
  int64_t tile_rows;  // of every tile but the last, which may have fewer
  // Four codes each: by part [num_parts, rows of the tile, kPartSteps], by row [num_chunks, rows of the tile, parts of
  // the chunk, kPartSteps]. A chunk of the most rows may be read behind the last.
  const int32_t* codes;
  // [num_chunks, rows of the tile]. Not a number for chunks that hold something infinite or not a number.
  const float* scales;
  // [num_chunks, rows of the tile]. -128 times the sum of a chunk's codes: added to its products with codes that are
  // taken as 128 higher (code_products.h).
  const int32_t* starts;
  const float* span_sums;  // of scale * code, [num_spans, rows of the tile]
};

// x is [num_rows, in_features]. All tiles have about the same size. Valid until the next call in the same thread.
QuantizedInputs quantized_inputs(const InputShape& shape, const float* x, int64_t num_rows, const InputTiles& tiles);

}  // namespace specgrove
