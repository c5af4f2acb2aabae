// For processors without AVX2: plain loops over blocks of 16 outputs, which the compiler makes vectors of.
#include <type_traits>

#include "linear.h"
#include "simd.h"

namespace specgrove {
namespace {

constexpr int kTileRows = 4;

template <typename T, int kRows>
void multiply(const LinearTile& tile, int64_t first_row, int64_t group, int64_t block) {
  const T* packed = reinterpret_cast<const T*>(static_cast<const char*>(tile.packed) + group * tile.group_bytes);
  const float* x = static_cast<const float*>(tile.x) + first_row * tile.x_stride;
  const int64_t first_output = group * kGroup + block * kBlock;
  Vec sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = load(tile.bias + first_output);
  if constexpr (std::is_same_v<T, BFloat16>) {
    for (int64_t input = 0; input < tile.depth; input += 2) {
      Vec even, odd;
      load_pairs(packed + input * kGroup + 2 * block * kBlock, &even, &odd);
      for (int r = 0; r < kRows; ++r) {
        sums[r] = fma(even, set1(x[r * tile.x_stride + input]), sums[r]);
        sums[r] = fma(odd, set1(x[r * tile.x_stride + input + 1]), sums[r]);
      }
    }
  } else {
    for (int64_t input = 0; input < tile.depth; ++input) {
      const Vec weights = load(packed + input * kGroup + block * kBlock);
      for (int r = 0; r < kRows; ++r) sums[r] = fma(weights, set1(x[r * tile.x_stride + input]), sums[r]);
    }
  }
  const int64_t num_left = tile.num_outputs - first_output, num_lanes = num_left < kBlock ? num_left : kBlock;
  for (int r = 0; r < kRows; ++r) {
    float lanes[kVec];
    store(lanes, sums[r]);
    float* out = tile.out + (first_row + r) * tile.out_stride + first_output;
    for (int64_t lane = 0; lane < num_lanes; ++lane) out[lane] = lanes[lane];
  }
}

template <typename T>
void tile_of(const LinearTile& tile) {
  for (int64_t group = 0; group < tile.num_groups; ++group) {
    for (int64_t block = 0; block < kGroupBlocks; ++block) {
      int64_t row = 0;
      for (; row + kTileRows <= tile.num_rows; row += kTileRows) multiply<T, kTileRows>(tile, row, group, block);
      for (; row < tile.num_rows; ++row) multiply<T, 1>(tile, row, group, block);
    }
  }
}

}  // namespace

void linear_tile_plain(DType dtype, const LinearTile& tile) {
  with_type(dtype, [&](auto* type) { tile_of<std::remove_pointer_t<decltype(type)>>(tile); });
}

void round_row_plain(const float* x, int64_t count, uint16_t* out, int64_t step_stride) {
  for (int64_t first = 0; first < count; first += kInputStep, out += step_stride) {
    for (int64_t i = 0; i < kInputStep; ++i) {
      BFloat16 rounded;
      from_float(first + i < count ? x[first + i] : 0.0f, &rounded);
      out[i] = rounded.bits;
    }
  }
}

}  // namespace specgrove
