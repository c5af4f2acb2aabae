// The body of a quantised tile for processors without AVX-512 BF16 and VBMI, compiled once per instruction set. As in
// attention_tile.h: no std containers or algorithms.
//
// Codes of some inputs are expanded to bfloat16 once, in the layout of PackedLinear's weights, and multiply a few rows.
#include "quantized_linear.h"
#include "simd.h"

namespace specgrove {
namespace {

constexpr int kTileRows = 4;
constexpr int64_t kSharedRows = 16;      // rows that share an expansion
constexpr int64_t kExpandedInputs = 64;  // 4 KiB in bfloat16: they stay in the cache

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Exact: at most 7 significant bits.
inline uint16_t small_to_bfloat16(int value) {
  return static_cast<uint16_t>(float_to_bits(static_cast<float>(value)) >> 16);
}

void expand8(const uint8_t* codes, int64_t num_inputs, uint16_t* out) {
  for (int64_t pair = 0; pair < num_inputs / 2; ++pair, codes += 2 * kGroup, out += 2 * kGroup) {
    for (int64_t eight = 0; eight < 4; ++eight) {
      for (int64_t block = 0; block < kGroupBlocks; ++block) {
        for (int64_t i = 0; i < 8; ++i) {
          const uint8_t code = codes[eight * 16 + block * 8 + i];
          out[block * 2 * kBlock + eight * 8 + i] =
              static_cast<uint16_t>(small_to_bfloat16(code & 0x7f) | (code & 0x80) << 8);
        }
      }
    }
  }
}

void expand4(const uint8_t* codes, int64_t num_inputs, uint16_t* out) {
  for (int64_t step = 0; step < num_inputs / kStepInputs; ++step, codes += 2 * kGroup, out += kStepInputs * kGroup) {
    uint16_t words[2 * kBlock];
    std::memcpy(words, codes, sizeof words);
    for (int nibble = 0; nibble < 4; ++nibble) {
      for (int64_t i = 0; i < 2 * kBlock; ++i) {
        out[nibble * 2 * kBlock + i] = small_to_bfloat16(words[i] >> 4 * nibble & 15);
      }
    }
  }
}

using Sums = float[kGroup];

// Adds num_inputs expanded inputs to the accumulators of some rows.
template <int kRows>
void accumulate(const uint16_t* expanded, const uint16_t* x, int64_t x_stride, int64_t num_inputs, Sums* totals) {
  const BFloat16* weights = reinterpret_cast<const BFloat16*>(expanded);
  for (int64_t block = 0; block < kGroupBlocks; ++block) {
    Vec sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = load(totals[r] + block * kBlock);
    for (int64_t input = 0; input < num_inputs; input += 2) {
      Vec even, odd;
      load_pairs(weights + input * kGroup + 2 * block * kBlock, &even, &odd);
      for (int r = 0; r < kRows; ++r) {
        const uint16_t* pair = x + r * x_stride + input;
        sums[r] = fma(even, set1(to_float(BFloat16{pair[0]})), sums[r]);
        sums[r] = fma(odd, set1(to_float(BFloat16{pair[1]})), sums[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) store(totals[r] + block * kBlock, sums[r]);
  }
}

void multiply(const QuantizedTile& tile, int64_t first_row, int64_t num_rows, int64_t group) {
  Sums sums[kSharedRows], totals[kSharedRows];
  for (int64_t r = 0; r < num_rows; ++r) std::memcpy(sums[r], tile.bias + group * kGroup, sizeof sums[r]);
  for (int64_t span = 0; span < tile.num_spans; ++span) {
    const char* packed = tile.packed + group * tile.group_bytes + span * tile.span_bytes;
    std::memset(totals, 0, sizeof totals);
    for (int64_t start = 0; start < tile.span_inputs; start += kExpandedInputs) {
      const int64_t count = least(kExpandedInputs, tile.span_inputs - start);
      const uint8_t* codes = reinterpret_cast<const uint8_t*>(packed) + start * kGroup * tile.bits / 8;
      uint16_t expanded[kExpandedInputs * kGroup];
      tile.bits == 8 ? expand8(codes, count, expanded) : expand4(codes, count, expanded);
      const uint16_t* x = tile.x + first_row * tile.x_stride + span * tile.span_inputs + start;
      int64_t r = 0;
      for (; r + kTileRows <= num_rows; r += kTileRows) {
        accumulate<kTileRows>(expanded, x + r * tile.x_stride, tile.x_stride, count, totals + r);
      }
      for (; r < num_rows; ++r) accumulate<1>(expanded, x + r * tile.x_stride, tile.x_stride, count, totals + r);
    }
    const float* scales = reinterpret_cast<const float*>(packed + tile.code_bytes);
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t lane = 0; lane < kGroup; lane += kVec) {
        Vec sum = fma(load(scales + lane), load(totals[r] + lane), load(sums[r] + lane));
        if (tile.has_mins) {
          const float span_sum = tile.span_sums[(first_row + r) * tile.num_spans + span];
          sum = fma(load(scales + kGroup + lane), set1(span_sum), sum);
        }
        store(sums[r] + lane, sum);
      }
    }
  }
  const int64_t num_lanes = least(kGroup, tile.num_outputs - group * kGroup);
  for (int64_t r = 0; r < num_rows; ++r) {
    std::memcpy(tile.out + (first_row + r) * tile.out_stride + group * kGroup, sums[r], num_lanes * sizeof(float));
  }
}

void quantized_tile_of(const QuantizedTile& tile) {
  for (int64_t group = 0; group < tile.num_groups; ++group) {
    for (int64_t row = 0; row < tile.num_rows; row += kSharedRows) {
      multiply(tile, row, least(kSharedRows, tile.num_rows - row), group);
    }
  }
}

}  // namespace
}  // namespace specgrove
