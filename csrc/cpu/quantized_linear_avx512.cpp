// Compiled with AVX-512, BF16 and VBMI whatever the machine that builds; called only where the processor has them.
#include <immintrin.h>

#include "quantized_linear.h"

namespace specgrove {
namespace {

constexpr int64_t kPrefetchBytes = 8192;  // as in linear_avx512.cpp
constexpr int64_t kVectorBytes = 64;
// With two vectors of totals each, the tables, the codes and the weights: all in registers, and few sums that are not.
constexpr int kMaxTileRows = 9;

struct Tables {
  // Bytes of the bfloat16 numbers 0 to 127.
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
  // The bfloat16 numbers 0 to 15, twice: a look-up takes five bits, of which four are a code.
  alignas(64) uint16_t nibbles[32];
};

constexpr uint16_t small_to_bfloat16(int value) {
  int exponent = 0;
  while (value >> (exponent + 1) != 0) ++exponent;
  return static_cast<uint16_t>(value == 0 ? 0 : (127 + exponent) << 7 | ((value << 7 >> exponent) & 0x7f));
}

constexpr Tables make_tables() {
  Tables tables{};
  for (int i = 0; i < 128; ++i) tables.low[i] = static_cast<uint8_t>(small_to_bfloat16(i));
  for (int i = 0; i < 128; ++i) tables.high[i] = static_cast<uint8_t>(small_to_bfloat16(i) >> 8);
  for (int i = 0; i < 32; ++i) tables.nibbles[i] = small_to_bfloat16(i % 16);
  return tables;
}

constexpr Tables kTables = make_tables();

// One step of a tile's inner loop: a vector of codes, expanded to bfloat16 pairs of inputs for a low and a high block
// of outputs.
template <int kBits>
struct Step;

template <>
struct Step<8> {
  static constexpr int kPairs = 1;
  const __m512i low0 = _mm512_load_si512(kTables.low), low1 = _mm512_load_si512(kTables.low + 64);
  const __m512i high0 = _mm512_load_si512(kTables.high), high1 = _mm512_load_si512(kTables.high + 64);
  const __m512i signs = _mm512_set1_epi8(static_cast<char>(0x80));

  void expand(__m512i codes, __m512i* low_weights, __m512i* high_weights) const {
    const __m512i low = _mm512_permutex2var_epi8(low0, codes, low1);
    const __m512i magnitude = _mm512_permutex2var_epi8(high0, codes, high1);
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, codes, signs, 0xf8);  // magnitude | (codes & signs)
    low_weights[0] = _mm512_unpacklo_epi8(low, high);
    high_weights[0] = _mm512_unpackhi_epi8(low, high);
  }
};

template <>
struct Step<4> {
  static constexpr int kPairs = 2;
  const __m512i nibbles = _mm512_load_si512(kTables.nibbles);

  void expand(__m512i codes, __m512i* low_weights, __m512i* high_weights) const {
    low_weights[0] = _mm512_permutexvar_epi16(codes, nibbles);
    high_weights[0] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), nibbles);
    low_weights[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 8), nibbles);
    high_weights[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 12), nibbles);
  }
};

inline __m512 add_products(__m512 sum, __m512i weights, const uint16_t* pair) {
  const __m512i inputs = _mm512_set1_epi32(*reinterpret_cast<const int*>(pair));
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(weights), reinterpret_cast<__m512bh>(inputs));
}

template <int kBits, int kRows>
void multiply(const QuantizedTile& tile, int64_t first_row, int64_t group) {
  using S = Step<kBits>;
  const S step;
  const char* packed = tile.packed + group * tile.group_bytes;
  const uint16_t* x = tile.x + first_row * tile.x_stride;
  __m512 low_sums[kRows], high_sums[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    low_sums[r] = _mm512_loadu_ps(tile.bias + group * kGroup);
    high_sums[r] = _mm512_loadu_ps(tile.bias + group * kGroup + kBlock);
  }
  for (int64_t span = 0; span < tile.num_spans; ++span) {
    __m512 low[kRows], high[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) low[r] = high[r] = _mm512_setzero_ps();
    for (const char* end = packed + tile.code_bytes; packed < end; packed += kVectorBytes, x += 2 * S::kPairs) {
      __m512i low_weights[S::kPairs], high_weights[S::kPairs];
      step.expand(_mm512_load_si512(packed), low_weights, high_weights);
      _mm_prefetch(packed + kPrefetchBytes, _MM_HINT_T0);
#pragma GCC unroll 2
      for (int pair = 0; pair < S::kPairs; ++pair) {
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          low[r] = add_products(low[r], low_weights[pair], x + r * tile.x_stride + 2 * pair);
          high[r] = add_products(high[r], high_weights[pair], x + r * tile.x_stride + 2 * pair);
        }
      }
    }
    const float* scales = reinterpret_cast<const float*>(packed);
    for (const char* end = packed + tile.span_bytes - tile.code_bytes; packed < end; packed += kVectorBytes) {
      _mm_prefetch(packed + kPrefetchBytes, _MM_HINT_T0);
    }
    const __m512 low_scales = _mm512_load_ps(scales), high_scales = _mm512_load_ps(scales + kBlock);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      low_sums[r] = _mm512_fmadd_ps(low_scales, low[r], low_sums[r]);
      high_sums[r] = _mm512_fmadd_ps(high_scales, high[r], high_sums[r]);
    }
    if (!tile.has_mins) continue;
    const __m512 low_mins = _mm512_load_ps(scales + kGroup), high_mins = _mm512_load_ps(scales + kGroup + kBlock);
    const float* span_sums = tile.span_sums + first_row * tile.num_spans + span;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const __m512 span_sum = _mm512_set1_ps(span_sums[r * tile.num_spans]);
      low_sums[r] = _mm512_fmadd_ps(low_mins, span_sum, low_sums[r]);
      high_sums[r] = _mm512_fmadd_ps(high_mins, span_sum, high_sums[r]);
    }
  }
  const int64_t num_left = tile.num_outputs - group * kGroup;
  const uint32_t mask = num_left < kGroup ? (uint32_t{1} << num_left) - 1 : ~uint32_t{0};
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    float* out = tile.out + (first_row + r) * tile.out_stride + group * kGroup;
    _mm512_mask_storeu_ps(out, static_cast<__mmask16>(mask), low_sums[r]);
    _mm512_mask_storeu_ps(out + kBlock, static_cast<__mmask16>(mask >> kBlock), high_sums[r]);
  }
}

template <int kBits, int kRows>
void multiply_rows(const QuantizedTile& tile, int64_t first_row, int64_t num_rows, int64_t group) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) return multiply_rows<kBits, kRows - 1>(tile, first_row, num_rows, group);
  }
  multiply<kBits, kRows>(tile, first_row, group);
}

// Tiles of about the same size: one row alone takes as long as three in a tile.
template <int kBits>
void tile_of(const QuantizedTile& tile) {
  for (int64_t group = 0; group < tile.num_groups; ++group) {
    for (int64_t row = 0, num_tiles = (tile.num_rows + kMaxTileRows - 1) / kMaxTileRows; num_tiles > 0; --num_tiles) {
      const int64_t num_rows = (tile.num_rows - row + num_tiles - 1) / num_tiles;
      multiply_rows<kBits, kMaxTileRows>(tile, row, num_rows, group);
      row += num_rows;
    }
  }
}

}  // namespace

void quantized_tile_avx512(const QuantizedTile& tile) { tile.bits == 8 ? tile_of<8>(tile) : tile_of<4>(tile); }

}  // namespace specgrove
