// How an attention tile reads a chunk of keys and values from their slots, compiled once per instruction set.
//
// No std containers or algorithms here, as in attention_tile.h.
#pragma once

#include "attention.h"
#include "prefetch.h"
#include "simd.h"

namespace specgrove {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

constexpr int64_t kMaxSingleKeys = 4;  // more are faster loaded with all others

// keys is [head_dim, kKeyChunk], so that a vector holds one element of 16 keys; values is [kKeyChunk, padded].
struct Chunk {
  float* keys;
  float* values;
};

#if defined(__AVX512F__)
// A matrix of sixteen by sixteen words of 32 bits, transposed.
inline void transpose(__m512i (&a)[16]) {
  __m512i b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
    b[4 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
    b[8 + i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
    b[12 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_i32x4(b[i], b[4 + i], 0x88);
    a[4 + i] = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0x88);
    a[8 + i] = _mm512_shuffle_i32x4(b[i], b[4 + i], 0xdd);
    a[12 + i] = _mm512_shuffle_i32x4(b[8 + i], b[12 + i], 0xdd);
  }
}

// Elements of sixteen rows, to columns of a matrix with kKeyChunk floats in a row; returns how many elements of each.
template <typename T>
inline int64_t turn(const T* const* rows, int64_t offset, int64_t, float* out) {
  __m512i words[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) words[i] = _mm512_castps_si512(load(rows[i] + offset));
  transpose(words);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) store(out + i * kKeyChunk, _mm512_castsi512_ps(words[i]));
  return kVec;
}
// Two numbers to a word: half the work.
inline int64_t turn(const BFloat16* const* rows, int64_t offset, int64_t num_left, float* out) {
  if (num_left < 2 * kVec) return turn<BFloat16>(rows, offset, num_left, out);
  __m512i words[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) words[i] = _mm512_loadu_si512(rows[i] + offset);
  transpose(words);
  const __m512i second = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    store(out + 2 * i * kKeyChunk, _mm512_castsi512_ps(_mm512_slli_epi32(words[i], 16)));
    store(out + (2 * i + 1) * kKeyChunk, _mm512_castsi512_ps(_mm512_and_si512(words[i], second)));
  }
  return 2 * kVec;
}
#else
template <typename T>
inline int64_t turn(const T* const* rows, int64_t offset, int64_t, float* out) {
  for (int64_t key = 0; key < kVec; ++key) {
    for (int64_t i = 0; i < kVec; ++i) out[i * kKeyChunk + key] = to_float(rows[key][offset + i]);
  }
  return kVec;
}
#endif

// Begins to fetch the keys and values of slots that are loaded later.
template <typename T>
inline void fetch_chunk(const AttentionTile& tile, const int32_t* slots, int64_t count) {
  const int64_t num_bytes = tile.head_dim * static_cast<int64_t>(sizeof(T));
  for (int64_t key = 0; key < count; ++key) {
    const int64_t place = slots[key] * tile.slot_stride * static_cast<int64_t>(sizeof(T));
    for (int64_t byte = 0; byte < num_bytes; byte += kCacheLine) {
      prefetch(static_cast<const char*>(tile.k_cache) + place + byte);
      prefetch(static_cast<const char*>(tile.v_cache) + place + byte);
    }
  }
}

template <typename T>
void load_chunk(const AttentionTile& tile, const int32_t* slots, int64_t count, const Chunk& chunk) {
  const int64_t dim = tile.head_dim, whole = dim / kVec * kVec, padded = (dim + kVec - 1) / kVec * kVec;
  for (int64_t first = 0; first < count; first += kVec) {
    const T* rows[kVec];
    // Places behind the last key repeat it: no query sees them.
    for (int64_t i = 0; i < kVec; ++i) {
      rows[i] = static_cast<const T*>(tile.k_cache) + slots[least(first + i, count - 1)] * tile.slot_stride;
    }
    for (int64_t d = 0; d < whole;) d += turn(rows, d, whole - d, chunk.keys + d * kKeyChunk + first);
    for (int64_t d = whole; d < dim; ++d) {
      for (int64_t i = 0; i < kVec; ++i) chunk.keys[d * kKeyChunk + first + i] = to_float(rows[i][d]);
    }
  }
  for (int64_t key = 0; key < count; ++key) {
    const T* row = static_cast<const T*>(tile.v_cache) + slots[key] * tile.slot_stride;
    float* value = chunk.values + key * padded;
    for (int64_t d = 0; d < whole; d += kVec) store(value + d, load(row + d));
    for (int64_t d = whole; d < padded; ++d) value[d] = d < dim ? to_float(row[d]) : 0.0f;
  }
}

// Which keys a chunk holds, by place.
struct Held {
  int32_t slots[kKeyChunk];
  int64_t count;
};

template <typename T>
void load_key(const AttentionTile& tile, int32_t slot, int64_t place, const Chunk& chunk) {
  const int64_t dim = tile.head_dim, padded = (dim + kVec - 1) / kVec * kVec;
  const T* const key = static_cast<const T*>(tile.k_cache) + slot * tile.slot_stride;
  const T* const value = static_cast<const T*>(tile.v_cache) + slot * tile.slot_stride;
  for (int64_t d = 0; d < dim; ++d) {
    chunk.keys[d * kKeyChunk + place] = to_float(key[d]);
    chunk.values[place * padded + d] = to_float(value[d]);
  }
  for (int64_t d = dim; d < padded; ++d) chunk.values[place * padded + d] = 0.0f;
}

// load_chunk where the chunk may hold most of the keys already: nodes of a tree share their ancestors. Places behind
// count hold anything: no query sees them.
template <typename T>
void load_missing(const AttentionTile& tile, const int32_t* slots, int64_t count, const Chunk& chunk, Held& held) {
  int64_t num_missing = 0;
  for (int64_t i = 0; i < count; ++i) num_missing += i >= held.count || held.slots[i] != slots[i];
  if (num_missing > kMaxSingleKeys) {
    load_chunk<T>(tile, slots, count, chunk);
    held.count = 0;
  }
  for (int64_t i = 0; i < count; ++i) {
    const bool is_missing = i >= held.count || held.slots[i] != slots[i];
    if (is_missing && num_missing <= kMaxSingleKeys) load_key<T>(tile, slots[i], i, chunk);
    held.slots[i] = slots[i];
  }
  held.count = held.count > count ? held.count : count;
}

}  // namespace
}  // namespace specgrove
