#include <algorithm>
#include <stdexcept>

#include "small_linear.cuh"

namespace specgrove::cuda {
namespace {

int64_t divided_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

template <typename T, int kBits, bool kHasMins, int kRowTiles, bool kIsWide>
void run(const SmallLinear& linear, Stream stream, int slices_per_block = kLinearWarps) {
  LaunchShape shape;
  const int parts_per_split = kLinearWarps / slices_per_block, num_parts = linear.num_splits * parts_per_split;
  shape.grid_y = static_cast<unsigned>(divided_up(linear.out_features, kLinearOutputs * (kIsWide ? kLinearWarps : 1)));
  shape.grid_z = static_cast<unsigned>(num_parts);
  shape.num_threads = kLinearWarps * kWarpSize;
  shape.shared_bytes = LinearStage<kBits, kRowTiles, kIsWide>::kSharedBytes;
  LinearGrid grid{};
  grid.slices_per_block = slices_per_block;
  // number / size is (number * factor) >> 32 while number * size < 2^32.
  const uint64_t size = static_cast<uint64_t>(linear.group_size / 16);
  grid.group_factor = kBits == 16 ? 0 : ((uint64_t{1} << 32) + size - 1) / size;
  const int64_t num_tiles = divided_up(linear.num_rows, kLinearMaxRows);
  // Tiles of rows that run side by side find each other's weights in the cache. Partial sums have room for so many
  // only.
  const int64_t at_once = num_parts == 1 ? num_tiles : kLinearMaxTiles / parts_per_split;
  for (int64_t first = 0; first < num_tiles; first += at_once) {
    shape.grid_x = static_cast<unsigned>(std::min(at_once, num_tiles - first));
    launch(small_linear_kernel<T, kBits, kHasMins, kRowTiles, kIsWide>, shape, stream, linear, grid,
           first * kLinearMaxRows);
  }
}

// Wide blocks where they keep at least half of the processors busy: those of whole splits, else those of one slice.
template <typename T, int kBits, bool kHasMins>
void run_rows(const SmallLinear& linear, Stream stream) {
  if (linear.num_rows <= 8) return run<T, kBits, kHasMins, 1, false>(linear, stream);
  const int64_t num_blocks = divided_up(linear.out_features, kLinearOutputs * kLinearWarps) * linear.num_splits *
                             divided_up(linear.num_rows, kLinearMaxRows);
  const int64_t enough = linear.num_processors / 2;
  const bool has_workspace = linear.num_splits > 1;
  if (num_blocks >= enough || (has_workspace && num_blocks * kLinearWarps >= enough)) {
    const int slices = num_blocks >= enough ? kLinearWarps : 1;
    if (linear.num_rows <= 16) return run<T, kBits, kHasMins, 2, true>(linear, stream, slices);
    if (linear.num_rows <= 32) return run<T, kBits, kHasMins, 4, true>(linear, stream, slices);
    return run<T, kBits, kHasMins, 8, true>(linear, stream, slices);
  }
  if (linear.num_rows <= 16) return run<T, kBits, kHasMins, 2, false>(linear, stream);
  run<T, kBits, kHasMins, 8, false>(linear, stream);
}

template <typename T>
void run_bits(const SmallLinear& linear, Stream stream) {
  if (linear.bits == 16) return run_rows<T, 16, false>(linear, stream);
  if (linear.bits == 8 && linear.has_mins) return run_rows<T, 8, true>(linear, stream);
  if (linear.bits == 8) return run_rows<T, 8, false>(linear, stream);
  if (linear.has_mins) return run_rows<T, 4, true>(linear, stream);
  run_rows<T, 4, false>(linear, stream);
}

}  // namespace

void small_linear(const SmallLinear& linear, Stream stream) {
  if (linear.num_rows == 0 || linear.out_features == 0) return;
  if (linear.dtype == DType::kFloat16) return run_bits<Float16>(linear, stream);
  if (linear.dtype == DType::kBFloat16) return run_bits<BFloat16>(linear, stream);
  throw std::invalid_argument("a linear's rows must be float16 or bfloat16");
}

}  // namespace specgrove::cuda
