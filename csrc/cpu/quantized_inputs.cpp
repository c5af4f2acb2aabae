#include "quantized_inputs.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "clones.h"
#include "number_types.h"
#include "thread_pool.h"

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
  int8_t codes[kChunkInputs];
};

// Codes of kChunkInputs numbers.
SPECGROVE_CLONES void quantize_chunk(const float* x, Chunk* out) {
  uint32_t bits[kChunkInputs];
  std::memcpy(bits, x, sizeof bits);
  int32_t largest = 0;  // magnitudes, as bits, are in the order of the numbers; what is not a number comes last
  for (int64_t i = 0; i < kChunkInputs; ++i) {
    largest = std::max(largest, static_cast<int32_t>(bits[i] & 0x7fffffffu));
  }
  const float magnitude = bits_to_float(static_cast<uint32_t>(largest));
  if (!(magnitude >= kLeastMagnitude) || static_cast<uint32_t>(largest) >= kInfinity) {
    std::memset(out->codes, 0, sizeof out->codes);
    out->code_sum = 0;
    out->scale = static_cast<uint32_t>(largest) >= kInfinity ? bits_to_float(0x7fc00000u) : 0.0f;
    return;
  }
  const float inverse = kMaxCode / magnitude;
  int32_t sum = 0;
  for (int64_t i = 0; i < kChunkInputs; ++i) {
    const float rounded = x[i] * inverse + kRounder;
    const int32_t code = static_cast<int32_t>(float_to_bits(rounded)) - 0x4b400000;
    out->codes[i] = static_cast<int8_t>(code);
    sum += code;
  }
  out->code_sum = sum;
  out->scale = magnitude / kMaxCode;
}

struct Buffers {
  std::vector<int32_t> codes, starts;
  std::vector<float> scales, span_sums;
};

// One row of a tile.
void quantize_row(const InputShape& shape, const float* x, int64_t first_row, int64_t row, int64_t tile_rows,
                  Buffers* buffers) {
  int64_t place = first_row * shape.num_chunks() + row - first_row;
  int32_t* codes = buffers->codes.data() + first_row * shape.num_chunks() * kChunkSteps + row - first_row;
  float* span_sum = buffers->span_sums.data() + first_row * shape.num_spans + row - first_row;
  for (int64_t span = 0; span < shape.num_spans; ++span, span_sum += tile_rows) {
    float sum = 0.0f;
    for (int64_t left = shape.span_size; left > 0; left -= kChunkInputs, place += tile_rows) {
      const int64_t num_inputs = std::min(kChunkInputs, left);
      float padded[kChunkInputs];
      if (num_inputs < kChunkInputs) std::fill(std::copy(x, x + num_inputs, padded), padded + kChunkInputs, 0.0f);
      Chunk chunk;
      quantize_chunk(num_inputs < kChunkInputs ? padded : x, &chunk);
      x += num_inputs;
      for (int64_t step = 0; step < kChunkSteps; ++step, codes += tile_rows) {
        std::memcpy(codes, chunk.codes + step * kStepInputs, sizeof *codes);
      }
      buffers->scales[place] = chunk.scale;
      buffers->starts[place] = -128 * chunk.code_sum;
      sum += chunk.scale * static_cast<float>(chunk.code_sum);
    }
    *span_sum = sum;
  }
}

}  // namespace

QuantizedInputs quantized_inputs(const InputShape& shape, const float* x, int64_t num_rows, int64_t max_tile_rows) {
  thread_local Buffers thread_buffers;
  Buffers* const buffers = &thread_buffers;  // the caller's, in all threads
  const int64_t least_tiles = (num_rows + max_tile_rows - 1) / max_tile_rows;
  const int64_t tile_rows = (num_rows + least_tiles - 1) / least_tiles;
  const int64_t num_tiles = (num_rows + tile_rows - 1) / tile_rows;
  buffers->codes.resize(num_rows * shape.num_chunks() * kChunkSteps);
  buffers->scales.resize(num_rows * shape.num_chunks());
  buffers->starts.resize(num_rows * shape.num_chunks());
  buffers->span_sums.resize(num_rows * shape.num_spans);
  ThreadPool::instance().run(num_tiles, [&](int64_t tile) {
    const int64_t first_row = tile * tile_rows, end_row = std::min(num_rows, first_row + tile_rows);
    for (int64_t row = first_row; row < end_row; ++row) {
      quantize_row(shape, x + row * shape.in_features(), first_row, row, end_row - first_row, buffers);
    }
  });
  return {tile_rows, buffers->codes.data(), buffers->scales.data(), buffers->starts.data(), buffers->span_sums.data()};
}

}  // namespace specgrove
