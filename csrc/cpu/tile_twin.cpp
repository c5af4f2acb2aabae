#include "tile_twin.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "clones.h"
#include "number_types.h"

namespace specgrove::tile_twin {
namespace {

constexpr int64_t kLanes = 16;  // 32-bit elements of a row
constexpr uint32_t kSign = 0x80000000u;
constexpr uint32_t kSmallest = 0x00800000u;  // 2^-126, the smallest number that is not denormal

struct alignas(64) Tile {
  uint32_t words[kTileRows][kLanes];
};

struct Tiles {
  TileConfig config;
  bool is_configured;
  Tile tiles[kNumTiles];
};
thread_local Tiles own_tiles{};

void check(bool holds, int tile, const char* text) {
  if (!holds) throw std::logic_error("tile " + std::to_string(tile) + " " + text);
}

Tile& shaped_tile(int tile) {
  check(own_tiles.is_configured && own_tiles.config.num_rows[tile] > 0, tile, "has no shape");
  return own_tiles.tiles[tile];
}

// What products of tiles demand; words of a's rows are rows of b.
void check_product(int c, int a, int b) {
  for (const int tile : {c, a, b}) shaped_tile(tile);
  const TileConfig& config = own_tiles.config;
  check(c != a && c != b && a != b, c, "is used twice in a product");
  check(config.num_rows[c] == config.num_rows[a], c, "has not the rows of the first factor");
  check(config.row_bytes[c] == config.row_bytes[b], c, "has not the columns of the second factor");
  check(config.row_bytes[a] == 4 * config.num_rows[b], b, "has not as many rows as the first factor has columns");
}

[[gnu::always_inline]] inline uint32_t magnitude(float value) { return float_to_bits(value) & ~kSign; }

[[gnu::always_inline]] inline float flushed(float value) {
  const uint32_t bits = float_to_bits(value);
  return bits_to_float((bits & ~kSign) < kSmallest ? bits & kSign : bits);
}

// The two numbers of a pair.
[[gnu::always_inline]] inline float low_half(uint32_t pair) { return flushed(bits_to_float(pair << 16)); }
[[gnu::always_inline]] inline float high_half(uint32_t pair) { return flushed(bits_to_float(pair & 0xffff0000u)); }

// Of numbers that are not denormal. Where the result is 2^-126, it may have been rounded to that for lack of a lower
// exponent: the same with factors 2^64 as large tells. (Large factors that overflow so have an exact result.)
float exact_fma(float a, float b, float c) {
  constexpr float kScale = 18446744073709551616.0f;  // 2^64
  const float result = std::fma(a, b, c);
  if (magnitude(result) != kSmallest) return flushed(result);
  const float scaled = std::fma(a * kScale, b, c * kScale);
  return std::fabs(scaled) < bits_to_float(kSmallest) * kScale ? std::copysign(0.0f, result) : result;
}

struct Factor {  // of pairs, their halves as float32
  float even[kTileRows][kLanes], odd[kTileRows][kLanes];
};

void sum_exactly(const uint32_t* a, int64_t num_pairs, const Factor& b, float* even, float* odd) {
  std::fill_n(even, kLanes, 0.0f);
  std::fill_n(odd, kLanes, 0.0f);
  for (int64_t k = 0; k < num_pairs; ++k) {
    for (int64_t n = 0; n < kLanes; ++n) {
      even[n] = exact_fma(low_half(a[k]), b.even[k][n], even[n]);
      odd[n] = exact_fma(high_half(a[k]), b.odd[k][n], odd[n]);
    }
  }
}

// Fast, and right where no result is denormal or 2^-126: returns whether that is so.
[[gnu::always_inline]] inline bool sum(const uint32_t* a, int64_t num_pairs, const Factor& b, float* even, float* odd) {
  float evens[kLanes] = {}, odds[kLanes] = {};
  uint32_t least[kLanes];  // magnitude less one: that of zero is the largest
  for (int64_t n = 0; n < kLanes; ++n) least[n] = ~0u;
  for (int64_t k = 0; k < num_pairs; ++k) {
    const float low = low_half(a[k]), high = high_half(a[k]);
    for (int64_t n = 0; n < kLanes; ++n) {
      evens[n] = __builtin_fmaf(low, b.even[k][n], evens[n]);
      odds[n] = __builtin_fmaf(high, b.odd[k][n], odds[n]);
      const uint32_t smaller = std::min(magnitude(evens[n]) - 1, magnitude(odds[n]) - 1);
      least[n] = std::min(least[n], smaller);
    }
  }
  uint32_t smallest = ~0u;
  for (int64_t n = 0; n < kLanes; ++n) {
    even[n] = evens[n];
    odd[n] = odds[n];
    smallest = std::min(smallest, least[n]);
  }
  return smallest >= kSmallest;
}

SPECGROVE_CLONES void multiply_bf16(const Tile& a, const Tile& b, int64_t num_rows, int64_t num_pairs,
                                    int64_t num_lanes, Tile* c) {
  Factor factor;
  for (int64_t k = 0; k < num_pairs; ++k) {
    for (int64_t n = 0; n < kLanes; ++n) {
      factor.even[k][n] = low_half(b.words[k][n]);
      factor.odd[k][n] = high_half(b.words[k][n]);
    }
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    float even[kLanes], odd[kLanes];
    if (!sum(a.words[row], num_pairs, factor, even, odd)) sum_exactly(a.words[row], num_pairs, factor, even, odd);
    // Sums of two numbers that would be denormal are exact: nothing is rounded up to 2^-126.
    for (int64_t n = 0; n < num_lanes; ++n) {
      const float before = flushed(bits_to_float(c->words[row][n]));
      c->words[row][n] = float_to_bits(flushed(before + flushed(even[n] + odd[n])));
    }
  }
}

[[gnu::always_inline]] inline uint32_t signed_byte(uint32_t word, int64_t place) {
  return static_cast<uint32_t>(static_cast<int32_t>(word << (24 - 8 * place)) >> 24);
}

SPECGROVE_CLONES void multiply_s8(const Tile& a, const Tile& b, int64_t num_rows, int64_t num_words, Tile* c) {
  uint32_t factors[kTileRows][4][kLanes];
  for (int64_t k = 0; k < num_words; ++k) {
    for (int64_t place = 0; place < 4; ++place) {
      for (int64_t n = 0; n < kLanes; ++n) factors[k][place][n] = signed_byte(b.words[k][n], place);
    }
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    uint32_t sums[kLanes];
    for (int64_t n = 0; n < kLanes; ++n) sums[n] = c->words[row][n];
    for (int64_t k = 0; k < num_words; ++k) {
      for (int64_t place = 0; place < 4; ++place) {
        const uint32_t factor = signed_byte(a.words[row][k], place);
        for (int64_t n = 0; n < kLanes; ++n) sums[n] += factor * factors[k][place][n];
      }
    }
    for (int64_t n = 0; n < kLanes; ++n) c->words[row][n] = sums[n];
  }
}

}  // namespace

void configure(const TileConfig& config) {
  if (config.palette != 1 || config.start_row != 0) throw std::logic_error("tiles have palette 1, and start at row 0");
  for (int tile = 0; tile < kNumTiles; ++tile) {
    const int num_rows = config.num_rows[tile], row_bytes = config.row_bytes[tile];
    check(num_rows <= kTileRows && row_bytes <= kTileBytes && row_bytes % 4 == 0, tile, "has a shape that no tile has");
    check((num_rows == 0) == (row_bytes == 0), tile, "has rows without columns, or columns without rows");
  }
  own_tiles.config = config;
  own_tiles.is_configured = true;
  std::memset(own_tiles.tiles, 0, sizeof own_tiles.tiles);
}

void release() { own_tiles.is_configured = false; }

void zero(int tile) { shaped_tile(tile) = Tile{}; }

void load(int tile, const void* from, int64_t stride) {
  Tile& target = shaped_tile(tile);
  std::memset(&target, 0, sizeof target);
  for (int64_t row = 0; row < own_tiles.config.num_rows[tile]; ++row) {
    std::memcpy(target.words[row], static_cast<const char*>(from) + row * stride, own_tiles.config.row_bytes[tile]);
  }
}

void store(int tile, void* to, int64_t stride) {
  const Tile& source = shaped_tile(tile);
  for (int64_t row = 0; row < own_tiles.config.num_rows[tile]; ++row) {
    std::memcpy(static_cast<char*>(to) + row * stride, source.words[row], own_tiles.config.row_bytes[tile]);
  }
}

void dot_bf16(int c, int a, int b) {
  check_product(c, a, b);
  Tiles& own = own_tiles;
  multiply_bf16(own.tiles[a], own.tiles[b], own.config.num_rows[a], own.config.num_rows[b], own.config.row_bytes[c] / 4,
                &own.tiles[c]);
}

void dot_s8(int c, int a, int b) {
  check_product(c, a, b);
  Tiles& own = own_tiles;
  multiply_s8(own.tiles[a], own.tiles[b], own.config.num_rows[a], own.config.num_rows[b], &own.tiles[c]);
}

}  // namespace specgrove::tile_twin
