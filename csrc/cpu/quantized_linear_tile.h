// The body of a quantised tile, compiled once per instruction set. As in attention_tile.h: no std containers or
// algorithms.
//
// A tile of rows goes over one block of outputs at a time: with the accumulators of two blocks, sums would be written
// to memory and read again in every chunk, which costs as much as the products.
#include "code_products.h"
#include "prefetch.h"
#include "quantized_linear.h"

namespace specgrove {
namespace {

inline void prefetch_from(const uint8_t* packed) { prefetch_stream(reinterpret_cast<const char*>(packed)); }

// 16 scales or mins, and on to what is behind them.
inline Vec next_scales(const uint8_t** packed, bool is_half) {
  const uint8_t* const from = *packed;
  prefetch_from(from);
  *packed += kBlock * (is_half ? 2 : 4);
  return is_half ? load(reinterpret_cast<const Float16*>(from)) : load(reinterpret_cast<const float*>(from));
}

// The products of a part, for every row; a row's inputs are kPartSteps after those of the row before.
template <int kRows>
inline void add_part8(const uint8_t* packed, const int32_t* inputs, IntVec* products) {
#pragma GCC unroll 8
  for (int64_t step = 0; step < kPartSteps; ++step, packed += kCacheLine) {
    prefetch_from(packed);
    const Codes codes = load_codes(packed);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      products[r] = add_products(products[r], codes, broadcast(inputs[r * kPartSteps + step]));
    }
  }
}

template <int kRows>
inline void add_part4(const uint8_t* packed, const int32_t* inputs, IntVec* products) {
  Sums4 sums[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r] = begin_part4(products[r]);
#pragma GCC unroll 4
  for (int64_t step = 0; step < kPartSteps; step += 2, packed += kCacheLine) {
    prefetch_from(packed);
    Codes4 low, high;
    load_halves(packed, &low, &high);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      sums[r] = add_products4(sums[r], low, broadcast4(inputs[r * kPartSteps + step]));
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      sums[r] = add_products4(sums[r], high, broadcast4(inputs[r * kPartSteps + step + 1]));
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) products[r] = end_part4(products[r], sums[r]);
}

template <int kBits, int kRows>
inline void add_part(const uint8_t* packed, const int32_t* inputs, IntVec* products) {
  kBits == 8 ? add_part8<kRows>(packed, inputs, products) : add_part4<kRows>(packed, inputs, products);
}

// A tile of inputs, kRows rows from first_row on, by one block of outputs.
template <int kBits, int kRows>
void multiply(const QuantizedTile& tile, int64_t first_row, int64_t block) {
  const uint8_t* packed = reinterpret_cast<const uint8_t*>(tile.packed) + block * tile.block_bytes;
  const int64_t chunks_per_span = (tile.parts_per_span + kChunkParts - 1) / kChunkParts;
  const int64_t first_chunk = first_row * tile.num_spans * chunks_per_span;
  const int32_t* inputs = tile.inputs.codes + first_row * tile.num_spans * tile.parts_per_span * kPartSteps;
  const float* input_scales = tile.inputs.scales + first_chunk;
  const int32_t* starts = tile.inputs.starts + first_chunk;
  const float* span_sums = tile.inputs.span_sums + first_row * tile.num_spans;
  Vec sums[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r] = load(tile.bias + block * kBlock);
  for (int64_t span = 0; span < tile.num_spans; ++span, span_sums += kRows) {
    Vec totals[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) totals[r] = set1(0.0f);
    for (int64_t left = tile.parts_per_span; left > 0; left -= kChunkParts) {
      IntVec products[kRows];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) products[r] = kBits == 8 ? first_sum(starts[r]) : set1(0);
      for (int64_t part = 0; part < kChunkParts && part < left; ++part) {
        add_part<kBits, kRows>(packed, inputs, products);
        packed += kPartInputs * kBlock * kBits / 8;
        inputs += kPartSteps * kRows;
      }
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) totals[r] = fma(set1(input_scales[r]), to_float(products[r]), totals[r]);
      input_scales += kRows;
      starts += kRows;
    }
    const Vec scales = next_scales(&packed, tile.has_half_scales);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sums[r] = fma(scales, totals[r], sums[r]);
    if (!tile.has_mins) continue;
    const Vec mins = next_scales(&packed, tile.has_half_scales);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sums[r] = fma(mins, set1(span_sums[r]), sums[r]);
  }
  const int64_t num_left = tile.num_outputs - block * kBlock;
  float* out = tile.out + first_row * tile.out_stride + block * kBlock;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, out += tile.out_stride) {
    float lanes[kBlock];
    store(num_left < kBlock ? lanes : out, sums[r]);
    for (int64_t lane = 0; num_left < kBlock && lane < num_left; ++lane) out[lane] = lanes[lane];
  }
}

template <int kBits, int kRows>
void multiply_rows(const QuantizedTile& tile, int64_t first_row, int64_t num_rows, int64_t block) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) return multiply_rows<kBits, kRows - 1>(tile, first_row, num_rows, block);
  }
  multiply<kBits, kRows>(tile, first_row, block);
}

template <int kBits, int kMaxRows>
void tile_of(const QuantizedTile& tile) {
  for (int64_t block = 0; block < tile.num_blocks; ++block) {
    for (int64_t row = 0; row < tile.num_rows; row += tile.inputs.tile_rows) {
      const int64_t num_left = tile.num_rows - row;
      multiply_rows<kBits, kMaxRows>(tile, row, num_left < tile.inputs.tile_rows ? num_left : tile.inputs.tile_rows,
                                     block);
    }
  }
}

// For tiles of inputs of at most kMaxRows rows.
template <int kMaxRows>
void quantized_tile_of(const QuantizedTile& tile) {
  tile.bits == 8 ? tile_of<8, kMaxRows>(tile) : tile_of<4, kMaxRows>(tile);
}

}  // namespace
}  // namespace specgrove
