#include <algorithm>
#include <stdexcept>

#include "small_linear.cuh"

namespace specgrove::cuda {
namespace {

template <typename T, int kBits, int kRowTiles>
void run(const SmallLinear& linear, Stream stream) {
  LaunchShape shape;
  shape.grid_y = static_cast<unsigned>((linear.out_features + kLinearOutputs - 1) / kLinearOutputs);
  shape.grid_z = static_cast<unsigned>(linear.num_splits);
  shape.num_threads = kLinearWarps * kWarpSize;
  shape.shared_bytes = LinearStage<kBits, kRowTiles>::kSharedBytes;
  const int64_t num_tiles = (linear.num_rows + kLinearMaxRows - 1) / kLinearMaxRows;
  // Tiles of rows that run side by side find each other's weights in the cache. Partial sums have room for so many
  // only.
  const int64_t at_once = linear.num_splits == 1 ? num_tiles : kLinearMaxTiles;
  for (int64_t first = 0; first < num_tiles; first += at_once) {
    shape.grid_x = static_cast<unsigned>(std::min(at_once, num_tiles - first));
    launch(small_linear_kernel<T, kBits, kRowTiles>, shape, stream, linear, first * kLinearMaxRows);
  }
}

template <typename T, int kBits>
void run_rows(const SmallLinear& linear, Stream stream) {
  if (linear.num_rows <= 8) return run<T, kBits, 1>(linear, stream);
  if (linear.num_rows <= 16) return run<T, kBits, 2>(linear, stream);
  run<T, kBits, 8>(linear, stream);
}

template <typename T>
void run_bits(const SmallLinear& linear, Stream stream) {
  if (linear.bits == 4) return run_rows<T, 4>(linear, stream);
  if (linear.bits == 8) return run_rows<T, 8>(linear, stream);
  run_rows<T, 16>(linear, stream);
}

}  // namespace

void small_linear(const SmallLinear& linear, Stream stream) {
  if (linear.num_rows == 0 || linear.out_features == 0) return;
  if (linear.dtype == DType::kFloat16) return run_bits<Float16>(linear, stream);
  if (linear.dtype == DType::kBFloat16) return run_bits<BFloat16>(linear, stream);
  throw std::invalid_argument("a linear's rows must be float16 or bfloat16");
}

}  // namespace specgrove::cuda
