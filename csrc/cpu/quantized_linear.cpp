#include "quantized_linear.h"

#include <algorithm>
#include <utility>

#include "groups.h"
#include "isa.h"
#include "thread_pool.h"
#include "tile_state.h"

namespace specgrove {
namespace {

// The codes of four inputs for 16 outputs make a line of 64 bytes, an output's side by side.
// 8 bits: as they are. 16 lines, 64 inputs, are a tile of AMX.
void place_code8(int8_t code, int64_t input, int64_t lane, uint8_t* codes) {
  codes[(input / kStepInputs * kBlock + lane) * kStepInputs + input % kStepInputs] = static_cast<uint8_t>(code);
}

// 4 bits: two lines in one, the first in the lower halves of its bytes.
void place_code4(uint8_t code, int64_t input, int64_t lane, uint8_t* codes) {
  const int64_t step = input / kStepInputs;
  codes[(step / 2 * kBlock + lane) * kStepInputs + input % kStepInputs] |= static_cast<uint8_t>(code << step % 2 * 4);
}

template <typename Scale>
void pack(const QuantizedShape& shape, const void* codes, const float* scales, const float* mins, void* packed) {
  ThreadPool::instance().run(shape.num_blocks(), [&](int64_t block) {
    char* const first = static_cast<char*>(packed) + block * shape.block_bytes();
    std::fill(first, first + shape.block_bytes(), char{0});
    const int64_t num_lanes = std::min(kBlock, shape.out_features - block * kBlock);
    for (int64_t span = 0; span < shape.num_spans(); ++span) {
      uint8_t* span_codes = reinterpret_cast<uint8_t*>(first + span * shape.span_bytes());
      Scale* span_scales = reinterpret_cast<Scale*>(span_codes + shape.code_bytes());
      for (int64_t lane = 0; lane < num_lanes; ++lane) {
        const int64_t output = block * kBlock + lane, start = output * shape.in_features + span * shape.span_size;
        for (int64_t input = 0; input < shape.span_size; ++input) {
          if (shape.bits == 8) {
            place_code8(static_cast<const int8_t*>(codes)[start + input], input, lane, span_codes);
          } else {
            place_code4(static_cast<const uint8_t*>(codes)[start + input], input, lane, span_codes);
          }
        }
        from_float(scales[output * shape.num_spans() + span], span_scales + lane);
        if (mins != nullptr) from_float(mins[output * shape.num_spans() + span], span_scales + kBlock + lane);
      }
    }
  });
}

// Codes of 4 bits are written out before they are a tile, which costs the same for any number of rows, and where few
// inputs have a scale, tiles are stored often: from here on that is less than what tiles save.
constexpr int64_t kLeastRowsOfTiles4 = 8, kLeastRowsOfSmallTiles4 = 12;

bool tiles_pay(const QuantizedShape& shape, int64_t num_rows) {
  if (shape.bits == 8) return true;
  return num_rows >= (shape.span_size > kPartInputs ? kLeastRowsOfTiles4 : kLeastRowsOfSmallTiles4);
}

struct Path {
  void (*run_tile)(const QuantizedTile& tile);
  InputTiles input_tiles;
};

// AVX-512 and tiles give the same bits.
Path path_of(const QuantizedShape& shape, int64_t num_rows) {
  const Isa isa = current_isa(), vectors = vector_isa();
  const bool has_tiles = isa == Isa::kAmx || isa == Isa::kAmxTwin;
  if (has_tiles && (vectors != Isa::kAvx512 || tiles_pay(shape, num_rows))) {
    return {isa == Isa::kAmx ? quantized_tile_amx : quantized_tile_amx_twin, {kTileRows, ChunkOrder::kByRow}};
  }
  if (vectors == Isa::kAvx512) return {quantized_tile_avx512, {kAvx512TileRows, ChunkOrder::kByPart}};
  if (vectors == Isa::kAvx2) return {quantized_tile_avx2, {kAvx2TileRows, ChunkOrder::kByPart}};
  return {quantized_tile_plain, {kPlainTileRows, ChunkOrder::kByPart}};
}

}  // namespace

QuantizedLinear::QuantizedLinear(const QuantizedShape& shape, const void* codes, const float* scales, const float* mins,
                                 const float* bias)
    : QuantizedLinear(shape, PackedBytes(shape.nbytes()), bias) {
  const auto pack_as = shape.has_half_scales ? pack<Float16> : pack<float>;
  pack_as(shape, codes, scales, mins, packed_.owned());
}

QuantizedLinear::QuantizedLinear(const QuantizedShape& shape, PackedBytes packed, const float* bias)
    : shape_(shape), packed_(std::move(packed)), bias_(shape.num_blocks() * kBlock, 0.0f) {
  if (bias != nullptr) std::copy(bias, bias + shape.out_features, bias_.begin());
}

void QuantizedLinear::multiply(const float* x, int64_t num_rows, float* out, TileSink* sink) const {
  if (num_rows == 0) return;
  const auto [run_tile, input_tiles] = path_of(shape_, num_rows);
  const InputShape input_shape{shape_.num_spans(), shape_.span_size};
  const QuantizedInputs inputs = quantized_inputs(input_shape, x, num_rows, input_tiles);
  for_groups(shape_.num_blocks(), shape_.block_bytes(), [&](int64_t first, int64_t count) {
    const int64_t num_outputs = std::min(count * kBlock, shape_.out_features - first * kBlock);
    const int64_t out_stride = sink == nullptr ? shape_.out_features : count * kBlock;
    float* const tile_out = sink == nullptr ? out + first * kBlock : tile_buffer(num_rows * out_stride);
    QuantizedTile tile{packed_.data() + first * shape_.block_bytes(),
                       shape_.block_bytes(),
                       shape_.bits,
                       shape_.has_mins,
                       shape_.has_half_scales,
                       shape_.num_spans(),
                       input_shape.parts_per_span(),
                       inputs,
                       bias_.data() + first * kBlock,
                       num_rows,
                       count,
                       tile_out,
                       out_stride,
                       num_outputs};
    run_tile(tile);
    if (sink != nullptr) sink->take({tile_out, out_stride, first * kBlock, num_outputs});
  });
}

}  // namespace specgrove
