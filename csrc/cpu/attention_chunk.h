// How an attention tile reads a chunk of keys and values from their slots, compiled once per instruction set.
//
// No std containers or algorithms here, as in attention_tile.h.
#pragma once

#include "attention.h"
#include "simd.h"

namespace specgrove {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// keys is [head_dim, kKeyChunk], so that a vector holds one element of 16 keys; values is [kKeyChunk, padded].
struct Chunk {
  float* keys;
  float* values;
};

#if defined(__AVX512F__)
// Sixteen rows of sixteen floats, to columns of a matrix with kKeyChunk floats in a row.
template <typename T>
inline void transpose(const T* const* rows, int64_t offset, float* out) {
  __m512 a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = load(rows[i] + offset);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  const auto low = [](__m512 x, __m512 y) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
  const auto high = [](__m512 x, __m512 y) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)));
  };
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = low(b[i], b[i + 2]);
    a[i + 1] = high(b[i], b[i + 2]);
    a[i + 2] = low(b[i + 1], b[i + 3]);
    a[i + 3] = high(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88);
    b[4 + i] = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88);
    b[8 + i] = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd);
    b[12 + i] = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    store(out + i * kKeyChunk, _mm512_shuffle_f32x4(b[i], b[4 + i], 0x88));
    store(out + (4 + i) * kKeyChunk, _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0x88));
    store(out + (8 + i) * kKeyChunk, _mm512_shuffle_f32x4(b[i], b[4 + i], 0xdd));
    store(out + (12 + i) * kKeyChunk, _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0xdd));
  }
}
#else
template <typename T>
inline void transpose(const T* const* rows, int64_t offset, float* out) {
  for (int64_t key = 0; key < kVec; ++key) {
    for (int64_t i = 0; i < kVec; ++i) out[i * kKeyChunk + key] = to_float(rows[key][offset + i]);
  }
}
#endif

template <typename T>
void load_chunk(const AttentionTile& tile, const int32_t* slots, int64_t count, const Chunk& chunk) {
  const int64_t dim = tile.head_dim, whole = dim / kVec * kVec, padded = (dim + kVec - 1) / kVec * kVec;
  for (int64_t first = 0; first < count; first += kVec) {
    const T* rows[kVec];
    // Places behind the last key repeat it: no query sees them.
    for (int64_t i = 0; i < kVec; ++i) {
      rows[i] = static_cast<const T*>(tile.k_cache) + slots[least(first + i, count - 1)] * tile.slot_stride;
    }
    for (int64_t d = 0; d < whole; d += kVec) transpose(rows, d, chunk.keys + d * kKeyChunk + first);
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

}  // namespace
}  // namespace specgrove
