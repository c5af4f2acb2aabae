// The body of linear_tiles.h, compiled over tiles of either kind. As in attention_tile.h: no std containers or
// algorithms.
//
// Four tiles of sums at a time, over as many inputs as let the panel of weights stay in the second-level cache: two row
// tiles by one group, or where there is one row tile, by two groups. Meanwhile the next weights are fetched, from all
// groups of a panel by turns: a core reads a quarter more from four streams than from one.
#include "linear.h"
#include "linear_tiles.h"
#include "prefetch.h"
#include "tiles.h"

namespace specgrove {
namespace {

constexpr int64_t kStepBytes = 2 * kTileRows * kTileBytes;  // of a group
constexpr int64_t kLineStride = 2 * kTileBytes;             // between the lines of a block
constexpr int64_t kStepLines = kStepBytes / kCacheLine;
constexpr int64_t kMaxChunkSteps = 24;  // 48 KiB of a group: a panel and the next one are 384 KiB

// Fetches weights into the second-level cache a few lines at a time, 1 KiB of each group by turns.
class NextWeights {
 public:
  NextWeights(const char* first, int64_t group_bytes, int64_t num_groups, int64_t num_steps)
      : first_(first), group_bytes_(group_bytes), num_groups_(num_groups), end_(num_steps * kStepBytes) {}

  void fetch(int64_t num_lines) {
    while (num_lines > 0 && run_ < end_) {
      const char* const line = first_ + group_ * group_bytes_ + run_ + in_run_;
      const int64_t num_left = (kRunBytes - in_run_) / kCacheLine, count = num_lines < num_left ? num_lines : num_left;
      for (int64_t i = 0; i < count; ++i) prefetch(line + i * kCacheLine);
      num_lines -= count;
      in_run_ += count * kCacheLine;
      if (in_run_ < kRunBytes) return;
      in_run_ = 0;
      if (++group_ < num_groups_) continue;
      group_ = 0;
      run_ += kRunBytes;
    }
  }

 private:
  static constexpr int64_t kRunBytes = 1 << 10;
  const char* first_;
  int64_t group_bytes_, num_groups_, end_;
  int64_t group_ = 0, run_ = 0, in_run_ = 0;  // where it is
};

// Some steps of all of a task's rows and groups.
struct Chunk {
  const TiledLinear& linear;
  int64_t first_step, end_step;
  NextWeights next;
  int64_t lines_per_step;  // of the next weights, while a block makes a step
};

float* sums_of(const TiledLinear& linear, int64_t tile, int64_t block) {
  const int64_t number = (tile - linear.first_tile) * linear.num_groups * kGroupBlocks + block;
  return linear.sums + number * linear.rows.rows_per_tile * kBlock;
}

template <int kC>
void begin(const Chunk& chunk, int64_t tile, int64_t block) {
  if (chunk.first_step == 0) return tile_load<kC>(chunk.linear.bias + block * kBlock, 0);
  tile_load<kC>(sums_of(chunk.linear, tile, block), kTileBytes);
}

template <int kC>
void end(const Chunk& chunk, int64_t tile, int64_t block) {
  const TiledLinear& linear = chunk.linear;
  float* const sums = sums_of(linear, tile, block);
  if (chunk.end_step < linear.num_steps) return tile_store<kC>(sums, kTileBytes);
  const int64_t num_left = linear.num_outputs - block * kBlock;
  float* const out = linear.out + first_row(linear.rows, tile) * linear.out_stride + block * kBlock;
  if (num_left >= kBlock) return tile_store<kC>(out, linear.out_stride * static_cast<int64_t>(sizeof(float)));
  tile_store<kC>(sums, kTileBytes);
  for (int64_t row = 0; row < linear.rows.rows_per_tile; ++row) {
    for (int64_t lane = 0; lane < num_left; ++lane) out[row * linear.out_stride + lane] = sums[row * kBlock + lane];
  }
}

// What the next step reads first.
void fetch_step(const char* weights) {
  for (int64_t line = 0; line < kStepLines; ++line) {
    __builtin_prefetch(weights + kStepBytes + line * kCacheLine, 0, 3);
  }
}

// Sums are in tiles 0 to 3, two for each row tile or group; inputs in 4, and those of a second row tile in 5; weights
// in 6 and 7.
template <int kRowTiles, int kGroups>
void multiply(Chunk* chunk, int64_t tile, int64_t group) {
  static_assert(kRowTiles * kGroups <= 2, "there are four tiles of sums");
  const TiledLinear& linear = chunk->linear;
  const int64_t block = group * kGroupBlocks, step_size = linear.rows.rows_per_tile * kInputStep;
  const int64_t second_tile = tile + (kRowTiles - 1), second_block = block + (kGroups - 1) * kGroupBlocks;
  begin<0>(*chunk, tile, block);
  begin<1>(*chunk, tile, block + 1);
  if constexpr (kRowTiles * kGroups == 2) {
    begin<2>(*chunk, second_tile, second_block);
    begin<3>(*chunk, second_tile, second_block + 1);
  }
  const bool is_first_touch = tile == linear.first_tile;
  for (int64_t step = chunk->first_step; step < chunk->end_step; ++step) {
    const char* const weights = linear.packed + group * linear.group_bytes + step * kStepBytes;
    const char* const second_weights = weights + linear.group_bytes;
    if (is_first_touch) {
      fetch_step(weights);
      if constexpr (kGroups == 2) fetch_step(second_weights);
    }
    chunk->next.fetch(chunk->lines_per_step);
    const uint16_t* const inputs = linear.inputs + (tile * linear.num_steps + step) * step_size;
    tile_load<4>(inputs, kTileBytes);
    tile_load<6>(weights, kLineStride);
    tile_dot_bf16<0, 4, 6>();
    tile_load<7>(weights + kTileBytes, kLineStride);
    tile_dot_bf16<1, 4, 7>();
    if constexpr (kRowTiles == 2) {
      tile_load<5>(inputs + linear.num_steps * step_size, kTileBytes);
      tile_dot_bf16<2, 5, 6>();
      tile_dot_bf16<3, 5, 7>();
    } else if constexpr (kGroups == 2) {
      tile_load<6>(second_weights, kLineStride);
      tile_dot_bf16<2, 4, 6>();
      tile_load<7>(second_weights + kTileBytes, kLineStride);
      tile_dot_bf16<3, 4, 7>();
    }
  }
  end<0>(*chunk, tile, block);
  end<1>(*chunk, tile, block + 1);
  if constexpr (kRowTiles * kGroups == 2) {
    end<2>(*chunk, second_tile, second_block);
    end<3>(*chunk, second_tile, second_block + 1);
  }
}

void multiply_chunk(Chunk* chunk) {
  const TiledLinear& linear = chunk->linear;
  const int64_t end_tile = linear.first_tile + linear.num_tiles;
  int64_t tile = linear.first_tile;
  for (; tile + 2 <= end_tile; tile += 2) {
    for (int64_t group = 0; group < linear.num_groups; ++group) multiply<2, 1>(chunk, tile, group);
  }
  if (tile == end_tile) return;
  int64_t group = 0;
  for (; group + 2 <= linear.num_groups; group += 2) multiply<1, 2>(chunk, tile, group);
  if (group < linear.num_groups) multiply<1, 1>(chunk, tile, group);
}

// Blocks that multiply_chunk makes.
int64_t num_blocks(const TiledLinear& linear) {
  const int64_t of_one_tile = linear.num_tiles % 2 * ((linear.num_groups + 1) / 2);
  return linear.num_tiles / 2 * linear.num_groups + of_one_tile;
}

TileConfig config_of(const RowTiles& rows) {
  TileConfig config;
  for (int tile = 0; tile < kNumTiles; ++tile) config.set(tile, tile < 6 ? rows.rows_per_tile : kTileRows, kTileBytes);
  return config;
}

void linear_tiles_of(const TiledLinear& linear) {
  tiles_configure(config_of(linear.rows));
  const int64_t num_chunks = (linear.num_steps + kMaxChunkSteps - 1) / kMaxChunkSteps;
  for (int64_t i = 0; i < num_chunks; ++i) {
    const auto step_of = [&](int64_t chunk) { return linear.num_steps * chunk / num_chunks; };
    const int64_t first = step_of(i), end = step_of(i + 1), num_steps = end - first;
    const char* const next = i + 1 < num_chunks ? linear.packed + end * kStepBytes : linear.next;
    const int64_t num_lines = linear.num_groups * num_steps * kStepLines,
                  num_block_steps = num_blocks(linear) * num_steps;
    Chunk chunk{linear, first, end, NextWeights(next, linear.group_bytes, linear.num_groups, num_steps),
                (num_lines + num_block_steps - 1) / num_block_steps};
    multiply_chunk(&chunk);
  }
}

}  // namespace
}  // namespace specgrove
