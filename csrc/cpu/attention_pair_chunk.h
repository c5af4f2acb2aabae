// A chunk of bfloat16 keys and values in pairs of 32 bits, as products of pairs read them: `vdpbf16ps` and AMX alike.
// Compiled once per form of the products.
#pragma once

#include "attention_walk.h"
#include "transpose.h"

namespace specgrove {
namespace {

constexpr int64_t kPairDims = 32;  // heads are padded with zeros to a multiple of it: one AMX tile, one vector

// keys is [padded / 2, kKeyChunk]: two neighbouring elements of a key. values is [kKeyChunk / 2, padded]: the same
// element of two neighbouring keys.
struct PairChunk {
  uint32_t* keys;
  uint32_t* values;
};

inline const uint16_t* row_at(const void* cache, const AttentionTile& tile, int32_t slot) {
  return static_cast<const uint16_t*>(cache) + slot * tile.slot_stride;
}

#if defined(__AVX512F__)

inline __m512i load_dims(const uint16_t* row, int64_t dim, int64_t first) {
  if (dim - first >= kPairDims) return _mm512_loadu_si512(row + first);
  return _mm512_maskz_loadu_epi16((1u << (dim - first)) - 1u, row + first);
}

// Elements from `first` on of sixteen keys, to columns.
inline void turn_keys(const uint16_t* const* rows, int64_t dim, int64_t first, uint32_t* out) {
  __m512i words[kVec];
#pragma GCC unroll 16
  for (int i = 0; i < kVec; ++i) words[i] = load_dims(rows[i], dim, first);
  transpose(words);
#pragma GCC unroll 16
  for (int i = 0; i < kVec; ++i) _mm512_store_si512(out + i * kKeyChunk, words[i]);
}

inline void pair_values(const uint16_t* even, const uint16_t* odd, int64_t dim, int64_t first, uint32_t* out) {
  const __m512i words = _mm512_set1_epi32(32 << 16);
  const __m512i low_places =
      _mm512_add_epi32(_mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                          _mm512_set1_epi32(0x10001)),
                       words);
  const __m512i high_places = _mm512_add_epi32(low_places, _mm512_set1_epi32(16 << 16 | 16));
  const __m512i a = load_dims(even, dim, first), b = load_dims(odd, dim, first);
  _mm512_store_si512(out, _mm512_permutex2var_epi16(a, low_places, b));
  _mm512_store_si512(out + kVec, _mm512_permutex2var_epi16(a, high_places, b));
}

#else

inline uint32_t element(const uint16_t* row, int64_t dim, int64_t d) { return d < dim ? row[d] : 0; }

inline void turn_keys(const uint16_t* const* rows, int64_t dim, int64_t first, uint32_t* out) {
  for (int64_t i = 0; i < kVec; ++i) {
    const int64_t d = first + 2 * i;
    for (int64_t key = 0; key < kVec; ++key) {
      out[i * kKeyChunk + key] = element(rows[key], dim, d) | element(rows[key], dim, d + 1) << 16;
    }
  }
}

inline void pair_values(const uint16_t* even, const uint16_t* odd, int64_t dim, int64_t first, uint32_t* out) {
  for (int64_t i = 0; i < kPairDims; ++i) {
    out[i] = element(even, dim, first + i) | element(odd, dim, first + i) << 16;
  }
}

#endif

inline void load_pairs(const AttentionTile& tile, const ChunkSlots& slots, const PairChunk& chunk) {
  const int64_t dim = tile.head_dim, padded = round_up_to(kPairDims, dim);
  for (int64_t first = 0; first < kKeyChunk; first += kVec) {
    const uint16_t* rows[kVec];
    for (int64_t i = 0; i < kVec; ++i) rows[i] = row_at(tile.k_cache, tile, slots.at[first + i]);
    for (int64_t d = 0; d < dim; d += kPairDims) turn_keys(rows, dim, d, chunk.keys + d / 2 * kKeyChunk + first);
  }
  for (int64_t place = 0; place < kKeyChunk; place += 2) {
    const uint16_t* const even = row_at(tile.v_cache, tile, slots.at[place]);
    const uint16_t* const odd = row_at(tile.v_cache, tile, slots.at[place + 1]);
    uint32_t* const out = chunk.values + place / 2 * padded;
    for (int64_t d = 0; d < dim; d += kPairDims) pair_values(even, odd, dim, d, out + d);
  }
}

// One key and value more, of a chunk that is loaded.
inline void load_pair_place(const AttentionTile& tile, int32_t slot, int64_t place, const PairChunk& chunk) {
  const int64_t dim = tile.head_dim, padded = round_up_to(kPairDims, dim);
  const uint16_t* const key = row_at(tile.k_cache, tile, slot);
  for (int64_t d = 0; d < dim; d += 2) {
    chunk.keys[d / 2 * kKeyChunk + place] = key[d] | (d + 1 < dim ? uint32_t{key[d + 1]} << 16 : 0);
  }
  const uint16_t* const value = row_at(tile.v_cache, tile, slot);
  uint32_t* const out = chunk.values + place / 2 * padded;
  const uint32_t shift = place % 2 * 16, kept = 0xffff0000u >> shift;
  for (int64_t d = 0; d < dim; ++d) out[d] = (out[d] & kept) | uint32_t{value[d]} << shift;
}

// Zeros for the values of places that aren't seen: the weight zero would not undo an infinity there.
inline void clear_unseen(uint32_t* values, int64_t padded, Seen seen) {
  for (int64_t place = 0; place < kKeyChunk; ++place) {
    if (place >= seen.begin && place < seen.end) continue;
    uint32_t* const row = values + place / 2 * padded;
    const uint32_t kept = place % 2 == 0 ? 0xffff0000u : 0x0000ffffu;
    for (int64_t d = 0; d < padded; ++d) row[d] &= kept;
  }
}

// Whether values are numbers all: an infinity or NaN would spoil the sums of rows that don't see it, by 0 * infinity.
inline bool is_finite(const uint32_t* words, int64_t count) {
  uint32_t low = 0, high = 0;  // the largest exponents
  for (int64_t i = 0; i < count; ++i) {
    low = words[i] << 17 > low ? words[i] << 17 : low;
    high = (words[i] & 0x7fff0000u) > high ? words[i] & 0x7fff0000u : high;
  }
  return low < 0xff000000u && high < 0x7f800000u;
}

}  // namespace
}  // namespace specgrove
