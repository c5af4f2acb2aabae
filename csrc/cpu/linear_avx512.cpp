// Compiled with AVX-512 and BF16 whatever the machine that builds; called only where the processor has them.
#include <immintrin.h>

#include <algorithm>

#include "linear.h"

namespace specgrove {
namespace {

constexpr int64_t kPrefetchBytes = 1024;

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

template <DType dtype, int kRows, int kBlocks>
void multiply(const LinearTile& tile, int64_t first_row, int64_t first_block) {
  using S = Step<dtype>;
  const char* packed = static_cast<const char*>(tile.packed) + first_block * tile.block_bytes;
  const auto* x = static_cast<const typename S::X*>(tile.x) + first_row * tile.x_stride;
  __m512 sums[kRows][kBlocks];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) sums[r][b] = _mm512_loadu_ps(tile.bias + (first_block + b) * kBlock);
  }
  const int64_t num_steps = tile.depth / S::kInputs;
  for (int64_t step = 0; step < num_steps; ++step) {
    typename S::Weights weights[kBlocks];
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) {
      const char* place = packed + b * tile.block_bytes + step * S::kBytes;
      weights[b] = S::load(place);
      _mm_prefetch(place + kPrefetchBytes, _MM_HINT_T0);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) {
        sums[r][b] = S::add(sums[r][b], weights[b], x + r * tile.x_stride + step * S::kInputs);
      }
    }
  }
  for (int b = 0; b < kBlocks; ++b) {
    const int64_t num_lanes = std::min(kBlock, tile.num_outputs - (first_block + b) * kBlock);
    const __mmask16 mask = static_cast<__mmask16>((1u << num_lanes) - 1u);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      float* out = tile.out + (first_row + r) * tile.out_stride + (first_block + b) * kBlock;
      _mm512_mask_storeu_ps(out, mask, sums[r][b]);
    }
  }
}

// All rows over blocks [first, first + kBlocks): whole tiles of kRows rows, then the rest in ever smaller ones.
template <DType dtype, int kRows, int kBlocks>
void multiply_rows(const LinearTile& tile, int64_t row, int64_t block) {
  for (; row + kRows <= tile.num_rows; row += kRows) multiply<dtype, kRows, kBlocks>(tile, row, block);
  if constexpr (kRows > 1) {
    if (row < tile.num_rows) multiply_rows<dtype, kRows - 1, kBlocks>(tile, row, block);
  }
}

// Few rows leave registers for more blocks at a time, whose weights then stream in side by side.
template <DType dtype>
void tile_of(const LinearTile& tile) {
  int64_t block = 0;
  if (tile.num_rows <= 6) {
    for (; block + 4 <= tile.num_blocks; block += 4) multiply_rows<dtype, 6, 4>(tile, 0, block);
  } else {
    for (; block + 2 <= tile.num_blocks; block += 2) multiply_rows<dtype, 13, 2>(tile, 0, block);
  }
  for (; block < tile.num_blocks; ++block) multiply_rows<dtype, 13, 1>(tile, 0, block);
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

void to_bfloat16_avx512(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 mask = static_cast<__mmask16>(count - i >= 16 ? 0xffff : (1u << (count - i)) - 1u);
    const __m256i rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i)));
    _mm256_mask_storeu_epi16(out + i, mask, rounded);
  }
}

}  // namespace specgrove
