// Matrix tiles (AMX), for kernels that are compiled twice: over the processor's instructions, and over the twin in C++
// (tile_twin.h), which a file asks for by SPECGROVE_TILE_TWIN before it includes the kernel. A machine of another kind
// than x86-64 has the twin alone.
//
// A tile has a number from 0 to 7 and up to 16 rows of 64 bytes. What tiles hold is undefined after tiles_configure;
// each is zeroed or loaded before it is used.
//
// Written as assembly: GCC 12's intrinsics tell the compiler of 8 of a configuration's 64 bytes, and of no memory that
// a tile is loaded from, so that it drops or moves the stores before them.
#pragma once

#include <cstdint>

#include "tile_state.h"
#include "tile_twin.h"

namespace specgrove {
namespace {

#if defined(__x86_64__) && !defined(SPECGROVE_TILE_TWIN)

// Loads the configuration where the thread has another.
inline void tiles_configure(const TileConfig& config) {
  if (!must_load_tiles(config, TileBody::kHardware)) return;
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}

template <int kTile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

// Rows are stride bytes apart; 0 gives all of them the same.
template <int kTile>
inline void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kTile), "r"(from), "r"(stride) : "memory");
}

template <int kTile>
inline void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kTile), "r"(to), "r"(stride) : "memory");
}

// c += a * b. A word of a's row is a pair of inputs; a row of b has that pair's weights, an output's side by side.
template <int kC, int kA, int kB>
inline void tile_dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

// The same with four signed bytes in a word, and sums of 32 bits.
template <int kC, int kA, int kB>
inline void tile_dot_s8() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

#else

inline void tiles_configure(const TileConfig& config) {
  if (must_load_tiles(config, TileBody::kTwin)) tile_twin::configure(config);
}

template <int kTile>
inline void tile_zero() {
  tile_twin::zero(kTile);
}

template <int kTile>
inline void tile_load(const void* from, int64_t stride) {
  tile_twin::load(kTile, from, stride);
}

template <int kTile>
inline void tile_store(void* to, int64_t stride) {
  tile_twin::store(kTile, to, stride);
}

template <int kC, int kA, int kB>
inline void tile_dot_bf16() {
  tile_twin::dot_bf16(kC, kA, kB);
}

template <int kC, int kA, int kB>
inline void tile_dot_s8() {
  tile_twin::dot_s8(kC, kA, kB);
}

#endif

}  // namespace
}  // namespace specgrove
