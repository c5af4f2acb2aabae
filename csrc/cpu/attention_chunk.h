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
// Of bfloat16 numbers pairs are turned, as words, and then taken apart.
inline void turn(const BFloat16* const* rows, int64_t offset, float* out) {
  for (int first = 0; first < kVec; first += 8) {
    __m256 pairs[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) pairs[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(rows[first + i] + offset));
    transpose(pairs);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      __m256 even, odd;
      take_apart(_mm256_castps_si256(pairs[i]), &even, &odd);
      _mm256_storeu_ps(out + 2 * i * kKeyChunk + first, even);
      _mm256_storeu_ps(out + (2 * i + 1) * kKeyChunk + first, odd);
    }
  }
}
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

constexpr int64_t kLinesFetched = 4;  // of the next chunk, after so many elements were turned

template <typename T>
void load_keys(const AttentionTile& tile, const ChunkSlots& slots, const Chunk& chunk, ChunkFetch& fetch) {
  const int64_t dim = tile.head_dim, whole = dim / kVec * kVec;
  for (int64_t first = 0; first < kKeyChunk; first += kVec) {
    const T* rows[kVec];
    for (int64_t i = 0; i < kVec; ++i) {
      rows[i] = static_cast<const T*>(tile.k_cache) + slots.at[first + i] * tile.slot_stride;
    }
    for (int64_t d = 0; d < whole; d += kVec) {
      turn(rows, d, chunk.keys + d * kKeyChunk + first);
      fetch.some(kLinesFetched);
    }
    for (int64_t d = whole; d < dim; ++d) {
      for (int64_t i = 0; i < kVec; ++i) chunk.keys[d * kKeyChunk + first + i] = to_float(rows[i][d]);
    }
  }
}

template <typename T>
void load_key(const AttentionTile& tile, int32_t slot, int64_t place, const Chunk& chunk) {
  const T* const key = static_cast<const T*>(tile.k_cache) + slot * tile.slot_stride;
  for (int64_t d = 0; d < tile.head_dim; ++d) chunk.keys[d * kKeyChunk + place] = to_float(key[d]);
}

template <typename T>
void load_value(const AttentionTile& tile, int32_t slot, int64_t place, const Chunk& chunk) {
  const int64_t dim = tile.head_dim, whole = dim / kVec * kVec, padded = round_up_to(kVec, dim);
  const T* row = static_cast<const T*>(tile.v_cache) + slot * tile.slot_stride;
  float* const value = chunk.values + place * padded;
  for (int64_t d = 0; d < whole; d += kVec) store(value + d, load(row + d));
  for (int64_t d = whole; d < padded; ++d) value[d] = d < dim ? to_float(row[d]) : 0.0f;
}

template <typename T>
void load_values(const AttentionTile& tile, const ChunkSlots& slots, const Chunk& chunk) {
  for (int64_t place = 0; place < kKeyChunk; ++place) load_value<T>(tile, slots.at[place], place, chunk);
}

// A register of elements of the value at a place: of a chunk's, or from the cache.
struct ChunkValues {
  const float* values;
  int64_t padded;

  Register at(int64_t place, int64_t offset) const { return load_register(values + place * padded + offset); }
};

template <typename T>
struct CachedValues {
  CachedValues(const AttentionTile& tile, const ChunkSlots& slots)
      : values(static_cast<const T*>(tile.v_cache)), stride(tile.slot_stride), slots(slots) {}

  Register at(int64_t place, int64_t offset) const { return load_register(values + slots.at[place] * stride + offset); }

  const T* values;
  int64_t stride;
  const ChunkSlots& slots;
};

}  // namespace
}  // namespace specgrove
