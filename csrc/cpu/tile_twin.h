// The tile operations of AMX in plain C++, bit for bit as Intel's manual defines them and processors do them: for tests
// on machines without. Each thread has eight tiles. Throws std::logic_error where a processor would fault: a tile
// without a shape, or shapes that don't fit together.
#pragma once

#include <cstdint>

#include "tile_state.h"

namespace specgrove::tile_twin {

void configure(const TileConfig& config);
void release();
void zero(int tile);
// Rows of the tile's shape, stride bytes apart; what is behind them in the tile becomes zero.
void load(int tile, const void* from, int64_t stride);
void store(int tile, void* to, int64_t stride);

// TDPBF16PS. For every row and output, with a row of a and the pairs of b:
//   even = odd = +0, and for each pair even = fma(a[2k], b[2k], even), odd = fma(a[2k+1], b[2k+1], odd);
//   then c = c + (even + odd).
// Each operation rounds once, to nearest even. Denormal numbers count as zero, and results that would be denormal
// become zero, judged as if exponents had no end. MXCSR is not consulted.
void dot_bf16(int c, int a, int b);
// TDPBSSD: sums of products of four signed bytes each, in 32 bits that wrap around.
void dot_s8(int c, int a, int b);

}  // namespace specgrove::tile_twin
