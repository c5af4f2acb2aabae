// A chunk of keys and values as floats, read from their slots. Compiled once per instruction set.
#pragma once

#include "attention_walk.h"
#include "transpose.h"

namespace specgrove {
namespace {

// keys is [head_dim, kKeyChunk], so that a vector holds one element of 16 keys; values is [kKeyChunk, padded].
struct Chunk {
  float* keys;
  float* values;
};

#if defined(__AVX512F__)
// Elements of sixteen rows, to columns of a matrix with kKeyChunk floats in a row.
template <typename T>
inline void turn(const T* const* rows, int64_t offset, float* out) {
  __m512i words[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) words[i] = _mm512_castps_si512(load(rows[i] + offset));
  transpose(words);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) store(out + i * kKeyChunk, _mm512_castsi512_ps(words[i]));
}
#elif defined(__AVX2__)
template <typename T>
inline void turn(const T* const* rows, int64_t offset, float* out) {
  for (int first = 0; first < kVec; first += 8) {
    for (int64_t d = 0; d < kVec; d += 8) {
      __m256 floats[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) floats[i] = widen(rows[first + i] + offset + d);
      transpose(floats);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps(out + (d + i) * kKeyChunk + first, floats[i]);
    }
  }
}
#else
template <typename T>
inline void turn(const T* const* rows, int64_t offset, float* out) {
  for (int64_t key = 0; key < kVec; ++key) {
    for (int64_t i = 0; i < kVec; ++i) out[i * kKeyChunk + key] = to_float(rows[key][offset + i]);
  }
}
#endif

template <typename T>
void load_keys(const AttentionTile& tile, const ChunkSlots& slots, const Chunk& chunk) {
  const int64_t dim = tile.head_dim, whole = dim / kVec * kVec;
  for (int64_t first = 0; first < kKeyChunk; first += kVec) {
    const T* rows[kVec];
    for (int64_t i = 0; i < kVec; ++i) {
      rows[i] = static_cast<const T*>(tile.k_cache) + slots.at[first + i] * tile.slot_stride;
    }
    for (int64_t d = 0; d < whole; d += kVec) turn(rows, d, chunk.keys + d * kKeyChunk + first);
    for (int64_t d = whole; d < dim; ++d) {
      for (int64_t i = 0; i < kVec; ++i) chunk.keys[d * kKeyChunk + first + i] = to_float(rows[i][d]);
    }
  }
}

template <typename T>
void load_value(const AttentionTile& tile, int32_t slot, float* value) {
  const int64_t dim = tile.head_dim, whole = dim / kVec * kVec, padded = round_up_to(kVec, dim);
  const T* row = static_cast<const T*>(tile.v_cache) + slot * tile.slot_stride;
  for (int64_t d = 0; d < whole; d += kVec) store(value + d, load(row + d));
  for (int64_t d = whole; d < padded; ++d) value[d] = d < dim ? to_float(row[d]) : 0.0f;
}

template <typename T>
void load_chunk(const AttentionTile& tile, const ChunkSlots& slots, const Chunk& chunk) {
  load_keys<T>(tile, slots, chunk);
  const int64_t padded = round_up_to(kVec, tile.head_dim);
  for (int64_t key = 0; key < kKeyChunk; ++key) load_value<T>(tile, slots.at[key], chunk.values + key * padded);
}

template <typename T>
void load_place(const AttentionTile& tile, int32_t slot, int64_t place, const Chunk& chunk) {
  const T* const key = static_cast<const T*>(tile.k_cache) + slot * tile.slot_stride;
  for (int64_t d = 0; d < tile.head_dim; ++d) chunk.keys[d * kKeyChunk + place] = to_float(key[d]);
  load_value<T>(tile, slot, chunk.values + place * round_up_to(kVec, tile.head_dim));
}

}  // namespace
}  // namespace specgrove
