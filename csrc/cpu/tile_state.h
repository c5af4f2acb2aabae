// What shape a thread's tiles have, and when they are given up.
//
// Loading a configuration costs more than a product of tiles (75 ns), so one that a thread has already is not loaded
// again. Kernels have configurations of their own all the same: with tiles of 16 rows, which would serve all of them, a
// product of few rows would take nearly twice its time, and a layer loads two.
// Other code of the thread (torch's) may load its own: a thread that calls kernels keeps its tiles for as long as a
// TilesInUse lives, and ThreadPool::run holds one. Workers run nothing else, and give theirs up when they go to sleep:
// tiles in use are 8 KiB more to save whenever the system changes threads.
#pragma once

#include <cstdint>

namespace specgrove {

constexpr int kNumTiles = 8;
constexpr int64_t kTileRows = 16;   // the most
constexpr int64_t kTileBytes = 64;  // of a row, the most

// As LDTILECFG reads it.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t unused[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t num_rows[16] = {};

  void set(int tile, int64_t rows, int64_t bytes_of_a_row) {
    num_rows[tile] = static_cast<uint8_t>(rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes_of_a_row);
  }
};
static_assert(sizeof(TileConfig) == 64, "LDTILECFG reads 64 bytes");

enum class TileBody { kHardware, kTwin };

// Whether the thread must load config into these tiles; from then on it counts as loaded.
bool must_load_tiles(const TileConfig& config, TileBody body);
// The thread's tiles hold nothing any more, and have no shapes.
void release_tiles();

// Until the last of a thread's, its tiles keep their configuration.
class TilesInUse {
 public:
  TilesInUse();
  ~TilesInUse();
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;
};

}  // namespace specgrove
