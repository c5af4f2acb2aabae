// Compiled with AVX-512 and BF16 whatever the machine that builds; called only where the processor has them.
#include <immintrin.h>

#include <algorithm>

#include "linear.h"
#include "prefetch.h"

namespace specgrove {
namespace {

constexpr int kMaxTileRows = 13;  // with two vectors of sums each, the weights and an input they fill the 32 registers

// One step of a tile's inner loop: the weights of 16 outputs for one input (or pair of inputs), and the inputs of one
// row.
template <DType dtype>
struct Step;

template <>
struct Step<DType::kFloat32> {
  static constexpr int64_t kInputs = 1;
  using X = float;
  using Weights = __m512;
  static Weights load(const char* packed) { return _mm512_loadu_ps(packed); }
  static constexpr int64_t kBytes = 64;
  static __m512 add(__m512 sum, Weights weights, const X* x) {
    return _mm512_fmadd_ps(weights, _mm512_set1_ps(*x), sum);
  }
};

template <>
struct Step<DType::kFloat16> {
  static constexpr int64_t kInputs = 1;
  using X = float;
  using Weights = __m512;
  static Weights load(const char* packed) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed)));
  }
  static constexpr int64_t kBytes = 32;
  static __m512 add(__m512 sum, Weights weights, const X* x) {
    return _mm512_fmadd_ps(weights, _mm512_set1_ps(*x), sum);
  }
};

template <>
struct Step<DType::kBFloat16> {
  static constexpr int64_t kInputs = 2;
  using X = uint16_t;
  using Weights = __m512bh;
  static Weights load(const char* packed) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(packed)); }
  static constexpr int64_t kBytes = 64;
  static __m512 add(__m512 sum, Weights weights, const X* x) {
    const __m512i pair = _mm512_set1_epi32(*reinterpret_cast<const int*>(x));
    return _mm512_dpbf16_ps(sum, weights, reinterpret_cast<__m512bh>(pair));
  }
};

template <DType dtype, int kRows>
void multiply(const LinearTile& tile, int64_t first_row, int64_t group) {
  using S = Step<dtype>;
  const char* packed = static_cast<const char*>(tile.packed) + group * tile.group_bytes;
  const auto* x = static_cast<const typename S::X*>(tile.x) + first_row * tile.x_stride;
  __m512 low[kRows], high[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    low[r] = _mm512_loadu_ps(tile.bias + group * kGroup);
    high[r] = _mm512_loadu_ps(tile.bias + group * kGroup + kBlock);
  }
  const int64_t num_steps = tile.depth / S::kInputs;
  for (int64_t step = 0; step < num_steps; ++step, packed += kGroupBlocks * S::kBytes) {
    const typename S::Weights low_weights = S::load(packed), high_weights = S::load(packed + S::kBytes);
    prefetch_stream(packed);
    prefetch_stream(packed + S::kBytes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto* inputs = x + r * tile.x_stride + step * S::kInputs;
      low[r] = S::add(low[r], low_weights, inputs);
      high[r] = S::add(high[r], high_weights, inputs);
    }
  }
  const int64_t num_left = std::min(kGroup, tile.num_outputs - group * kGroup);
  const uint32_t mask = static_cast<uint32_t>((uint64_t{1} << num_left) - 1);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    float* out = tile.out + (first_row + r) * tile.out_stride + group * kGroup;
    _mm512_mask_storeu_ps(out, static_cast<__mmask16>(mask), low[r]);
    _mm512_mask_storeu_ps(out + kBlock, static_cast<__mmask16>(mask >> kBlock), high[r]);
  }
}

// Whole tiles of kRows rows, then the rest in one smaller tile.
template <DType dtype, int kRows>
void multiply_rows(const LinearTile& tile, int64_t row, int64_t group) {
  for (; row + kRows <= tile.num_rows; row += kRows) multiply<dtype, kRows>(tile, row, group);
  if constexpr (kRows > 1) {
    if (row < tile.num_rows) multiply_rows<dtype, kRows - 1>(tile, row, group);
  }
}

template <DType dtype>
void tile_of(const LinearTile& tile) {
  for (int64_t group = 0; group < tile.num_groups; ++group) multiply_rows<dtype, kMaxTileRows>(tile, 0, group);
}

}  // namespace

void linear_tile_avx512(DType dtype, const LinearTile& tile) {
  switch (dtype) {
    case DType::kFloat32:
      return tile_of<DType::kFloat32>(tile);
    case DType::kBFloat16:
      return tile_of<DType::kBFloat16>(tile);
    case DType::kFloat16:
      return tile_of<DType::kFloat16>(tile);
  }
}

void round_row_avx512(const float* x, int64_t count, uint16_t* out, int64_t step_stride) {
  for (int64_t first = 0; first < count; first += kInputStep, out += step_stride) {
    const int64_t num_left = count - first;
    const uint32_t mask = num_left >= kInputStep ? ~0u : (1u << num_left) - 1u;
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + first);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + first + 16);
    _mm512_storeu_si512(out, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
}

}  // namespace specgrove
