#include "linear_tiles.h"

#include <algorithm>

#include "groups.h"
#include "isa.h"
#include "rows.h"
#include "scratch.h"

namespace specgrove {
namespace {

// A panel of weights is read from memory once for all row tiles, and lies in the second-level cache meanwhile.
constexpr int64_t kPanelGroups = 4;
// What is more than that waits: rows and sums of a panel share the cache with weights.
constexpr int64_t kPanelRowTiles = 8;

// x rounded to bfloat16 in row tiles, the last step padded with zeros. Valid until the next call in the same thread.
const uint16_t* rounded_tiles(const float* x, const RowTiles& rows, int64_t in_features, int64_t num_steps) {
  thread_local Scratch<uint16_t> rounded;
  const int64_t tile_size = num_steps * rows.rows_per_tile * kInputStep;
  uint16_t* const tiles = rounded.room(rows.num_tiles * tile_size);
  const auto round = bfloat16_rounding();
  for_rows(rows.num_tiles * rows.rows_per_tile, in_features, [=](int64_t i) {
    const int64_t tile = i / rows.rows_per_tile, row = i % rows.rows_per_tile;
    round(x + (first_row(rows, tile) + row) * in_features, in_features, tiles + tile * tile_size + row * kInputStep,
          rows.rows_per_tile * kInputStep);
  });
  return tiles;
}

float* sums_buffer(int64_t num_floats) {
  thread_local Scratch<float> buffer;
  return buffer.room(num_floats);
}

int64_t share(int64_t total, int64_t part, int64_t num_parts) { return total * part / num_parts; }

}  // namespace

void multiply_on_tiles(const TiledWeights& weights, const float* x, int64_t num_rows, float* out, TileSink* sink) {
  if (num_rows == 0) return;
  const RowTiles rows = row_tiles(num_rows);
  const int64_t num_steps = round_up(weights.in_features, kInputStep) / kInputStep;
  const uint16_t* const inputs = rounded_tiles(x, rows, weights.in_features, num_steps);
  const auto run = current_isa() == Isa::kAmx ? linear_tiles_amx : linear_tiles_amx_twin;
  // A sink takes all rows at once. Row panels of the same groups follow one another, so that a thread that takes them
  // in turn has the weights in its cache.
  const int64_t num_row_panels = sink != nullptr ? 1 : (rows.num_tiles + kPanelRowTiles - 1) / kPanelRowTiles;
  const int64_t num_wanted = kTasksPerThread * ThreadPool::instance().num_threads() / num_row_panels;
  const int64_t num_panels =
      std::min(weights.num_groups, std::max(num_wanted, (weights.num_groups + kPanelGroups - 1) / kPanelGroups));
  ThreadPool::instance().run(num_panels * num_row_panels, [&](int64_t task) {
    const int64_t panel = task / num_row_panels, row_panel = task % num_row_panels;
    const int64_t group = share(weights.num_groups, panel, num_panels);
    const int64_t tile = share(rows.num_tiles, row_panel, num_row_panels);
    TiledLinear linear{};
    linear.num_groups = share(weights.num_groups, panel + 1, num_panels) - group;
    linear.num_tiles = share(rows.num_tiles, row_panel + 1, num_row_panels) - tile;
    linear.packed = weights.packed + group * weights.group_bytes;
    linear.group_bytes = weights.group_bytes;
    linear.num_steps = num_steps;
    linear.inputs = inputs;
    linear.rows = rows;
    linear.first_tile = tile;
    linear.bias = weights.bias + group * kGroup;
    linear.sums = sums_buffer(linear.num_tiles * rows.rows_per_tile * linear.num_groups * kGroup);
    linear.num_outputs = std::min(linear.num_groups * kGroup, weights.out_features - group * kGroup);
    linear.out_stride = sink == nullptr ? weights.out_features : linear.num_groups * kGroup;
    linear.out = sink == nullptr ? out + group * kGroup : tile_buffer(num_rows * linear.out_stride);
    const bool is_last_of_panel = row_panel + 1 == num_row_panels;
    linear.next = linear.packed + (is_last_of_panel ? linear.num_groups * weights.group_bytes : 0);
    run(linear);
    if (sink != nullptr) sink->take({linear.out, linear.out_stride, group * kGroup, linear.num_outputs});
  });
}

}  // namespace specgrove
