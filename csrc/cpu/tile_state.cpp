#include "tile_state.h"

#include <cstring>

#include "tile_twin.h"

namespace specgrove {
namespace {

struct Loaded {
  TileConfig config;
  bool is_there;
  TileBody body;
  int num_users;
};
thread_local Loaded loaded{};

}  // namespace

bool must_load_tiles(const TileConfig& config, TileBody body) {
  Loaded& own = loaded;
  const bool is_same = own.is_there && own.body == body && std::memcmp(&own.config, &config, sizeof config) == 0;
  if (is_same) return false;
  own.config = config;
  own.body = body;
  own.is_there = true;
  return true;
}

void release_tiles() {
  Loaded& own = loaded;
  if (!own.is_there) return;
  own.is_there = false;
  if (own.body == TileBody::kTwin) return tile_twin::release();
#if defined(__x86_64__)
  asm volatile("tilerelease" : : : "memory");
#endif
}

TilesInUse::TilesInUse() { ++loaded.num_users; }

TilesInUse::~TilesInUse() {
  if (--loaded.num_users == 0) release_tiles();
}

}  // namespace specgrove
