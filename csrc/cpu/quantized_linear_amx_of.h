// The body of a quantised tile over tiles of AMX, compiled over tiles of either kind (tiles.h). A chunk of inputs of 16
// rows by its codes of 16 outputs is one product of tiles, whose integers are the sums that VNNI makes; what follows is
// done in the order of quantized_linear_tile.h, so that all bits are the same.
//
// As there: no std containers or algorithms.
#include "code_products.h"
#include "prefetch.h"
#include "quantized_linear.h"
#include "tiles.h"

namespace specgrove {
namespace {

constexpr int64_t kPanelTiles = 4;  // tiles of rows for which a chunk of weights is loaded once
constexpr int64_t kPanelRows = kPanelTiles * kTileRows;
constexpr int64_t kChunkInputs = kChunkParts * kPartInputs;
// Numbers of tiles. Products are 0 to 3; inputs and codes have a pair for whole chunks, and one for those of one part.
constexpr int kInputTile = 4, kCodeTile = 5, kPartInputTile = 6, kPartCodeTile = 7;

// Where a chunk of a block is.
struct Chunk {
  const uint8_t* codes;
  const uint8_t* scales;  // of its span
  int64_t num_bytes;      // of its codes, and of the scales that follow the last of a span
  int64_t number, first_part, num_parts, span;
  bool is_first, is_last;  // of its span
};

int64_t chunks_per_span(const QuantizedTile& tile) { return (tile.parts_per_span + kChunkParts - 1) / kChunkParts; }

// The chunks of a block, one after another.
class Chunks {
 public:
  Chunks(const QuantizedTile& tile, int64_t block)
      : tile_(tile),
        part_bytes_(kPartInputs * kBlock * tile.bits / 8),
        scale_bytes_((tile.has_mins ? 2 : 1) * kBlock * (tile.has_half_scales ? 2 : 4)),
        codes_(reinterpret_cast<const uint8_t*>(tile.packed) + block * tile.block_bytes),
        left_in_span_(tile.parts_per_span) {}

  Chunk next() {
    Chunk chunk;
    chunk.codes = codes_;
    chunk.scales = codes_ + left_in_span_ * part_bytes_;
    chunk.number = number_++;
    chunk.first_part = first_part_;
    chunk.num_parts = left_in_span_ < kChunkParts ? left_in_span_ : kChunkParts;
    chunk.span = span_;
    chunk.is_first = left_in_span_ == tile_.parts_per_span;
    chunk.is_last = left_in_span_ == chunk.num_parts;
    chunk.num_bytes = chunk.num_parts * part_bytes_ + (chunk.is_last ? scale_bytes_ : 0);
    codes_ += chunk.num_bytes;
    first_part_ += chunk.num_parts;
    left_in_span_ = chunk.is_last ? tile_.parts_per_span : left_in_span_ - chunk.num_parts;
    span_ += chunk.is_last;
    return chunk;
  }

 private:
  const QuantizedTile& tile_;
  const int64_t part_bytes_, scale_bytes_;
  const uint8_t* codes_;
  int64_t left_in_span_, number_ = 0, first_part_ = 0, span_ = 0;
};

// What is kept of a panel of rows by a block of outputs: always rows of kBlock numbers.
struct alignas(kCacheLine) Room {
  int32_t products[2][kPanelRows * kBlock];  // of the chunk at work, and of the one whose products are scaled
  uint8_t codes[2][kChunkInputs * kBlock];   // likewise, of 4 bits as bytes
  float totals[kPanelRows * kBlock];         // of a span
  float sums[kPanelRows * kBlock];
};

// Rows that lie in up to kPanelTiles tiles of inputs.
class Panel {
 public:
  Panel(const QuantizedTile& tile, int64_t first_row)
      : tile_(tile), first_row_(first_row), num_tiles_(tiles_from(tile, first_row)) {}

  int64_t num_tiles() const { return num_tiles_; }
  int64_t num_rows(int64_t i) const {
    const int64_t left = tile_.num_rows - row(i);
    return left < tile_.inputs.tile_rows ? left : tile_.inputs.tile_rows;
  }
  int64_t row(int64_t i) const { return first_row_ + i * tile_.inputs.tile_rows; }
  const int32_t* codes(int64_t i, const Chunk& chunk) const {
    const int64_t num_parts = tile_.num_spans * tile_.parts_per_span;
    return tile_.inputs.codes + (row(i) * num_parts + chunk.first_part * num_rows(i)) * kPartSteps;
  }
  const float* scales(int64_t i, const Chunk& chunk) const {
    return tile_.inputs.scales + row(i) * tile_.num_spans * chunks_per_span(tile_) + chunk.number * num_rows(i);
  }
  const float* span_sums(int64_t i, const Chunk& chunk) const {
    return tile_.inputs.span_sums + row(i) * tile_.num_spans + chunk.span * num_rows(i);
  }

 private:
  static int64_t tiles_from(const QuantizedTile& tile, int64_t first_row) {
    const int64_t left = (tile.num_rows - first_row + tile.inputs.tile_rows - 1) / tile.inputs.tile_rows;
    return left < kPanelTiles ? left : kPanelTiles;
  }

  const QuantizedTile& tile_;
  const int64_t first_row_, num_tiles_;
};

// All tiles of rows have the shape of the first: where the last has fewer, it holds some of what lies behind them too,
// whose products nobody reads.
TileConfig tile_config(int64_t tile_rows) {
  TileConfig config;
  for (int tile = 0; tile < kPanelTiles; ++tile) config.set(tile, tile_rows, kBlock * 4);
  config.set(kInputTile, tile_rows, kChunkInputs);
  config.set(kCodeTile, kChunkInputs / kStepInputs, kBlock * kStepInputs);
  config.set(kPartInputTile, tile_rows, kPartInputs);
  config.set(kPartCodeTile, kPartSteps, kBlock * kStepInputs);
  return config;
}

void fetch_ahead(const Chunk& chunk) {
  const char* const bytes = reinterpret_cast<const char*>(chunk.codes);
  for (int64_t i = 0; i < chunk.num_bytes; i += kCacheLine) prefetch_stream(bytes + i);
}

// Codes of 4 bits as bytes.
void unpack(const Chunk& chunk, uint8_t* bytes) {
  const int64_t num_lines = chunk.num_parts * kPartSteps;
  for (int64_t line = 0; line < num_lines; line += 2) {
    Codes4 low, high;
    load_halves(chunk.codes + line / 2 * kCacheLine, &low, &high);
    store_codes(bytes + line * kCacheLine, low);
    store_codes(bytes + (line + 1) * kCacheLine, high);
  }
}

template <int kTile, int kInputs, int kCodes>
inline void multiply_tile(const Panel& panel, const Chunk& chunk, int32_t* products) {
  if (kTile >= panel.num_tiles()) return;
  tile_load<kInputs>(panel.codes(kTile, chunk), chunk.num_parts * kPartInputs);
  tile_zero<kTile>();
  tile_dot_s8<kTile, kInputs, kCodes>();
  tile_store<kTile>(products + kTile * kTileRows * kBlock, kBlock * 4);
}

template <int kInputs, int kCodes>
void multiply_tiles(const Panel& panel, const Chunk& chunk, const uint8_t* codes, int32_t* products) {
  tile_load<kCodes>(codes, kBlock * kStepInputs);
  multiply_tile<0, kInputs, kCodes>(panel, chunk, products);
  multiply_tile<1, kInputs, kCodes>(panel, chunk, products);
  multiply_tile<2, kInputs, kCodes>(panel, chunk, products);
  multiply_tile<3, kInputs, kCodes>(panel, chunk, products);
}

void multiply_chunk(const Panel& panel, const Chunk& chunk, const uint8_t* codes, int32_t* products) {
  if (chunk.num_parts == kChunkParts) {
    multiply_tiles<kInputTile, kCodeTile>(panel, chunk, codes, products);
  } else {
    multiply_tiles<kPartInputTile, kPartCodeTile>(panel, chunk, codes, products);
  }
}

Vec load_scales(const uint8_t* packed, bool is_half) {
  return is_half ? load(reinterpret_cast<const Float16*>(packed)) : load(reinterpret_cast<const float*>(packed));
}

// A chunk's products to the totals of its span, and those, at its end, to the sums.
template <bool kIsFirst, bool kIsLast, bool kHasMins>
void scale(const QuantizedTile& tile, const Panel& panel, const Chunk& chunk, const int32_t* products, Room* room) {
  const int64_t mins_at = kBlock * (tile.has_half_scales ? 2 : 4);
  const Vec scales = kIsLast ? load_scales(chunk.scales, tile.has_half_scales) : set1(0.0f);
  const Vec mins = kHasMins ? load_scales(chunk.scales + mins_at, tile.has_half_scales) : set1(0.0f);
  for (int64_t i = 0; i < panel.num_tiles(); ++i) {
    const float *input_scales = panel.scales(i, chunk), *span_sums = panel.span_sums(i, chunk);
    const int64_t num_rows = panel.num_rows(i);
    for (int64_t r = 0, at = i * kTileRows * kBlock; r < num_rows; ++r, at += kBlock) {
      const Vec before = kIsFirst ? set1(0.0f) : load(room->totals + at);
      const Vec total = fma(set1(input_scales[r]), to_float(load_ints(products + at)), before);
      if constexpr (kIsLast) {
        Vec sum = fma(scales, total, load(room->sums + at));
        if constexpr (kHasMins) sum = fma(mins, set1(span_sums[r]), sum);
        store(room->sums + at, sum);
      } else {
        store(room->totals + at, total);
      }
    }
  }
}

void scale(const QuantizedTile& tile, const Panel& panel, const Chunk& chunk, const int32_t* products, Room* room) {
  if (!chunk.is_last) {
    chunk.is_first ? scale<true, false, false>(tile, panel, chunk, products, room)
                   : scale<false, false, false>(tile, panel, chunk, products, room);
  } else if (tile.has_mins) {
    chunk.is_first ? scale<true, true, true>(tile, panel, chunk, products, room)
                   : scale<false, true, true>(tile, panel, chunk, products, room);
  } else {
    chunk.is_first ? scale<true, true, false>(tile, panel, chunk, products, room)
                   : scale<false, true, false>(tile, panel, chunk, products, room);
  }
}

void start_sums(const Panel& panel, const float* bias, Room* room) {
  const Vec start = load(bias);
  for (int64_t i = 0; i < panel.num_tiles(); ++i) {
    for (int64_t r = 0; r < panel.num_rows(i); ++r) store(room->sums + (i * kTileRows + r) * kBlock, start);
  }
}

void write_sums(const QuantizedTile& tile, const Panel& panel, int64_t block, const Room& room) {
  const int64_t left = tile.num_outputs - block * kBlock, num_lanes = left < kBlock ? left : kBlock;
  for (int64_t i = 0; i < panel.num_tiles(); ++i) {
    for (int64_t r = 0; r < panel.num_rows(i); ++r) {
      float* const out = tile.out + (panel.row(i) + r) * tile.out_stride + block * kBlock;
      std::memcpy(out, room.sums + (i * kTileRows + r) * kBlock, num_lanes * sizeof *out);
    }
  }
}

// In three stages, each a chunk behind the one before: tiles wait neither for codes that were just written, nor scaling
// for products that were just stored.
void multiply(const QuantizedTile& tile, const Panel& panel, int64_t block, Room* room) {
  start_sums(panel, tile.bias + block * kBlock, room);
  Chunks chunks(tile, block);
  Chunk recent[4];
  const int64_t num_chunks = tile.num_spans * chunks_per_span(tile);
  for (int64_t i = 0; i < num_chunks + 2; ++i) {
    if (i < num_chunks) {
      const Chunk& chunk = recent[i % 4] = chunks.next();
      fetch_ahead(chunk);
      if (tile.bits == 4) unpack(chunk, room->codes[i % 2]);
    }
    if (i >= 1 && i <= num_chunks) {
      const Chunk& chunk = recent[(i - 1) % 4];
      const uint8_t* codes = tile.bits == 4 ? room->codes[(i - 1) % 2] : chunk.codes;
      multiply_chunk(panel, chunk, codes, room->products[(i - 1) % 2]);
    }
    if (i >= 2) scale(tile, panel, recent[(i - 2) % 4], room->products[i % 2], room);
  }
  write_sums(tile, panel, block, *room);
}

void quantized_tile_of_tiles(const QuantizedTile& tile) {
  tiles_configure(tile_config(tile.inputs.tile_rows));
  Room room;
  for (int64_t block = 0; block < tile.num_blocks; ++block) {
    for (int64_t row = 0; row < tile.num_rows; row += kPanelTiles * tile.inputs.tile_rows) {
      multiply(tile, Panel(tile, row), block, &room);
    }
  }
}

}  // namespace
}  // namespace specgrove
