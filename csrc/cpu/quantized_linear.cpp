#include "quantized_linear.h"

#include <algorithm>
#include <utility>

#include "isa.h"
#include "thread_pool.h"

namespace specgrove {
namespace {

constexpr int64_t kSumLanes = 4;  // divides every padded span

// 8 bits: byte by byte the sign and magnitude of a pair of inputs for 32 outputs. Blocks alternate by 8 bytes, so that
// interleaving the low and the high bytes of 16-bit numbers leaves each block in a vector of its own.
void place_code8(int8_t code, int64_t input, int64_t lane, uint8_t* codes) {
  const int64_t place = lane % kBlock * 2 + input % 2;
  uint8_t* pair = codes + input / 2 * 2 * kGroup;
  pair[place / 8 * 16 + lane / kBlock * 8 + place % 8] = static_cast<uint8_t>(code < 0 ? 0x80 - code : code);
}

// 4 bits: 32 words hold four inputs of 32 outputs, a word the same place of (first pair, first block), (first pair,
// second block), (second pair, first block) and (second pair, second block), from the lowest bits up.
void place_code4(uint8_t code, int64_t input, int64_t lane, uint8_t* codes) {
  const int64_t word = lane % kBlock * 2 + input % 2, nibble = input % kStepInputs / 2 * 2 + lane / kBlock;
  uint8_t* step = codes + input / kStepInputs * 2 * kGroup;
  step[2 * word + nibble / 2] |= static_cast<uint8_t>(code << nibble % 2 * 4);
}

void pack(const QuantizedShape& shape, const void* codes, const float* scales, const float* mins, void* packed) {
  ThreadPool::instance().run(shape.num_groups(), [&](int64_t group) {
    char* const first = static_cast<char*>(packed) + group * shape.group_bytes();
    std::fill(first, first + shape.group_bytes(), char{0});
    const int64_t num_lanes = std::min(kGroup, shape.out_features - group * kGroup);
    for (int64_t span = 0; span < shape.num_spans(); ++span) {
      uint8_t* span_codes = reinterpret_cast<uint8_t*>(first + span * shape.span_bytes());
      float* span_scales = reinterpret_cast<float*>(span_codes + shape.code_bytes());
      for (int64_t lane = 0; lane < num_lanes; ++lane) {
        const int64_t output = group * kGroup + lane, start = output * shape.in_features + span * shape.span_size;
        for (int64_t input = 0; input < shape.span_size; ++input) {
          if (shape.bits == 8) {
            place_code8(static_cast<const int8_t*>(codes)[start + input], input, lane, span_codes);
          } else {
            place_code4(static_cast<const uint8_t*>(codes)[start + input], input, lane, span_codes);
          }
        }
        span_scales[lane] = scales[output * shape.num_spans() + span];
        if (mins != nullptr) span_scales[kGroup + lane] = mins[output * shape.num_spans() + span];
      }
    }
  });
}

// Sums of the spans of each row, [num_rows, num_spans]: four lanes in the order of the inputs, then their sum. Valid
// until the next call in the same thread.
const float* sums_of_spans(const QuantizedShape& shape, const uint16_t* x, int64_t num_rows) {
  thread_local std::vector<float> sums;
  sums.resize(num_rows * shape.num_spans());
  for (float& sum : sums) {
    float lanes[kSumLanes] = {};
    for (const uint16_t* end = x + shape.padded_span(); x < end; x += kSumLanes) {
      for (int64_t lane = 0; lane < kSumLanes; ++lane) lanes[lane] += to_float(BFloat16{x[lane]});
    }
    sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  }
  return sums.data();
}

}  // namespace

QuantizedLinear::QuantizedLinear(const QuantizedShape& shape, const void* codes, const float* scales, const float* mins,
                                 const float* bias)
    : QuantizedLinear(shape, PackedBytes(shape.nbytes()), bias) {
  pack(shape, codes, scales, mins, packed_.owned());
}

QuantizedLinear::QuantizedLinear(const QuantizedShape& shape, PackedBytes packed, const float* bias)
    : shape_(shape), packed_(std::move(packed)), bias_(shape.num_groups() * kGroup, 0.0f) {
  if (bias != nullptr) std::copy(bias, bias + shape.out_features, bias_.begin());
}

void QuantizedLinear::forward(const float* x, int64_t num_rows, float* out) const {
  const Isa isa = current_isa();
  const auto run_tile = isa == Isa::kAvx512 ? quantized_tile_avx512
                        : isa == Isa::kAvx2 ? quantized_tile_avx2
                                            : quantized_tile_plain;
  // Only the last span can be padded, and then it is the only one: rows of x stay as they are, with zeros behind.
  const uint16_t* rounded = rounded_rows(x, num_rows, shape_.in_features, shape_.padded_in());
  const float* span_sums = shape_.has_mins ? sums_of_spans(shape_, rounded, num_rows) : nullptr;
  const int64_t num_per_task = groups_per_task(shape_.num_groups(), shape_.group_bytes());
  ThreadPool::instance().run(round_up(shape_.num_groups(), num_per_task) / num_per_task, [&](int64_t task) {
    const int64_t first = task * num_per_task, count = std::min(num_per_task, shape_.num_groups() - first);
    QuantizedTile tile{packed_.data() + first * shape_.group_bytes(),
                       shape_.bits,
                       shape_.has_mins,
                       shape_.num_spans(),
                       shape_.padded_span(),
                       shape_.code_bytes(),
                       shape_.span_bytes(),
                       shape_.group_bytes(),
                       rounded,
                       shape_.padded_in(),
                       span_sums,
                       bias_.data() + first * kGroup,
                       num_rows,
                       count,
                       out + first * kGroup,
                       shape_.out_features,
                       std::min(count * kGroup, shape_.out_features - first * kGroup)};
    run_tile(tile);
  });
}

}  // namespace specgrove
