// The products of pairs by tiles (AMX). Compiled over tiles of either kind.
//
// A product has up to 16 queries, 16 pairs (one step of the sums) and two times 16 columns. Two sets of tiles differ in
// their rows: those of a whole block, and those of one row's heads, which a chunk of its own is for: a product of few
// rows takes half the time of one of 16.
#pragma once

#include "attention_pairs.h"
#include "tiles.h"

namespace specgrove {
namespace {

constexpr int kBlockTiles = 0, kRowTiles = 3;  // the first of a set: sums of 16 columns, of 16 more, queries or weights
constexpr int kLowPairs = 6, kHighPairs = 7;

// Sums for 32 columns of b: steps of 16 pairs of a row of a, which is a_bytes long, with as many rows of b.
template <int kSet>
inline void add_steps(const uint16_t* a, int64_t a_bytes, int64_t num_steps, const uint32_t* b, int64_t b_bytes) {
  for (int64_t step = 0; step < num_steps; ++step) {
    tile_load<kSet + 2>(a + step * 2 * kVec, a_bytes);
    tile_load<kLowPairs>(b, b_bytes);
    tile_load<kHighPairs>(b + kVec, b_bytes);
    tile_dot_bf16<kSet, kSet + 2, kLowPairs>();
    tile_dot_bf16<kSet + 1, kSet + 2, kHighPairs>();
    b += kVec * b_bytes / 4;
  }
}

template <int kSet>
inline void load_sums(const float* sums, int64_t row_bytes) {
  tile_load<kSet>(sums, row_bytes);
  tile_load<kSet + 1>(sums + kVec, row_bytes);
}

template <int kSet>
inline void store_sums(float* sums, int64_t row_bytes) {
  tile_store<kSet>(sums, row_bytes);
  tile_store<kSet + 1>(sums + kVec, row_bytes);
}

class Products {
 public:
  Products(int64_t num_queries, int64_t num_heads)
      : block_rows_(least(num_queries, kTileRows)), row_rows_(least(num_heads, kTileRows)) {
    TileConfig config;
    for (int tile = 0; tile < 3; ++tile) {
      config.set(kBlockTiles + tile, block_rows_, kTileBytes);
      config.set(kRowTiles + tile, row_rows_, kTileBytes);
    }
    config.set(kLowPairs, kTileRows, kTileBytes);
    config.set(kHighPairs, kTileRows, kTileBytes);
    tiles_configure(config);
  }

  void score(const uint16_t* queries, int64_t num_pairs, int64_t count, const uint32_t* keys, float* scores) const {
    return count <= row_rows_ ? score_with<kRowTiles>(queries, num_pairs, keys, scores)
                              : score_with<kBlockTiles>(queries, num_pairs, keys, scores);
  }

  void add_values(const uint16_t* weights, int64_t count, const uint32_t* values, int64_t padded, float* sums) {
    for (int64_t column = 0; column < padded; column += 2 * kVec) {
      if (count == row_rows_) {
        add_columns<kRowTiles>(weights, values + column, padded, sums + column, padded);
      } else if (count == block_rows_) {
        add_columns<kBlockTiles>(weights, values + column, padded, sums + column, padded);
      } else {  // what tiles would store behind these rows belongs to others
        for (int64_t i = 0; i < count; ++i) copy_columns(sums + i * padded + column, spare_ + i * 2 * kVec);
        add_columns<kBlockTiles>(weights, values + column, padded, spare_, 2 * kVec);
        for (int64_t i = 0; i < count; ++i) copy_columns(spare_ + i * 2 * kVec, sums + i * padded + column);
      }
    }
  }

 private:
  template <int kSet>
  static void score_with(const uint16_t* queries, int64_t num_pairs, const uint32_t* keys, float* scores) {
    tile_zero<kSet>();
    tile_zero<kSet + 1>();
    add_steps<kSet>(queries, 4 * num_pairs, num_pairs / kVec, keys, 4 * kKeyChunk);
    store_sums<kSet>(scores, 4 * kKeyChunk);
  }

  template <int kSet>
  static void add_columns(const uint16_t* weights, const uint32_t* values, int64_t padded, float* sums,
                          int64_t columns) {
    load_sums<kSet>(sums, 4 * columns);
    add_steps<kSet>(weights, 2 * kKeyChunk, 1, values, 4 * padded);
    store_sums<kSet>(sums, 4 * columns);
  }

  static void copy_columns(const float* from, float* to) {
    store(to, load(from));
    store(to + kVec, load(from + kVec));
  }

  int64_t block_rows_, row_rows_;
  alignas(64) float spare_[kTileRows * 2 * kVec] = {};
};

}  // namespace
}  // namespace specgrove
