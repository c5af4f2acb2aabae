#include <algorithm>
#include <cmath>

#include "linear.h"

namespace specgrove {
namespace {

template <typename T, typename X>
void tile_of(const LinearTile& tile, bool in_pairs) {
  for (int64_t block = 0; block < tile.num_blocks; ++block) {
    const T* weight = reinterpret_cast<const T*>(static_cast<const char*>(tile.packed) + block * tile.block_bytes);
    const int64_t num_lanes = std::min(kBlock, tile.num_outputs - block * kBlock);
    for (int64_t row = 0; row < tile.num_rows; ++row) {
      const X* x = static_cast<const X*>(tile.x) + row * tile.x_stride;
      float sums[kBlock];
      std::copy_n(tile.bias + block * kBlock, kBlock, sums);
      for (int64_t input = 0; input < tile.depth; ++input) {
        const float value = to_float(x[input]);
        for (int64_t lane = 0; lane < kBlock; ++lane) {
          const int64_t place = in_pairs ? (input / 2 * kBlock + lane) * 2 + input % 2 : input * kBlock + lane;
          sums[lane] += to_float(weight[place]) * value;
        }
      }
      std::copy_n(sums, num_lanes, tile.out + row * tile.out_stride + block * kBlock);
    }
  }
}

}  // namespace

void linear_tile_plain(DType dtype, const LinearTile& tile) {
  switch (dtype) {
    case DType::kFloat32:
      return tile_of<float, float>(tile, false);
    case DType::kBFloat16:
      return tile_of<BFloat16, BFloat16>(tile, true);
    case DType::kFloat16:
      return tile_of<Float16, float>(tile, false);
  }
}

void to_bfloat16_plain(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    BFloat16 rounded;
    from_float(x[i], &rounded);
    out[i] = rounded.bits;
  }
}

}  // namespace specgrove
