// Rows in tiles of one shape, so that one configuration serves all of them.
#pragma once

#include <cstdint>

#include "tile_state.h"

namespace specgrove {

// As few tiles as hold the rows, and no more rows in them than need be: a product costs less with 8 rows than with 16.
// The last tile ends with the last row; where rows don't divide evenly it repeats some of the tile before it, which
// have the same bits there.
struct RowTiles {
  int64_t num_rows, num_tiles, rows_per_tile;
};

static inline RowTiles row_tiles(int64_t num_rows) {
  const int64_t num_tiles = (num_rows + kTileRows - 1) / kTileRows;
  return {num_rows, num_tiles, num_tiles == 0 ? 0 : (num_rows + num_tiles - 1) / num_tiles};
}

static inline int64_t first_row(const RowTiles& rows, int64_t tile) {
  const int64_t last = rows.num_rows - rows.rows_per_tile, first = tile * rows.rows_per_tile;
  return first < last ? first : last;
}

}  // namespace specgrove
