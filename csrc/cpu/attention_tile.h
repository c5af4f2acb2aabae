// The body of an attention tile, compiled once per instruction set.
//
// No std containers or algorithms here: an out-of-line copy of them, made with these files' instructions, could be the
// one that the linker keeps for all files.
#include <limits>

#include "attention.h"
#include "simd.h"
#include "vector_math.h"

namespace specgrove {
namespace {

constexpr int64_t kMaxBlock = 4;  // queries that share the registers

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// keys is [head_dim, kKeyChunk], so that a vector holds one element of 16 keys; values is [kKeyChunk, padded].
struct Chunk {
  float* keys;
  float* values;
};

struct Query {
  const float* vector;
  int64_t count;     // keys of the chunk that it sees
  int64_t distance;  // from the query's position back to the chunk's first
  float slope;
  float *sums, *weights, *maximum, *total;
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

// Scores of kQueries queries for all places of the chunk; a score is summed over head_dim in order.
template <int kQueries>
inline void score(const Query* queries, const Chunk& chunk, int64_t dim, float scale) {
  Vec low[kQueries], high[kQueries];
  for (int q = 0; q < kQueries; ++q) low[q] = high[q] = set1(0.0f);
  for (int64_t d = 0; d < dim; ++d) {
    const Vec key_low = load(chunk.keys + d * kKeyChunk), key_high = load(chunk.keys + d * kKeyChunk + kVec);
#pragma GCC unroll 4
    for (int q = 0; q < kQueries; ++q) {
      const Vec element = set1(queries[q].vector[d]);
      low[q] = fma(element, key_low, low[q]);
      high[q] = fma(element, key_high, high[q]);
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    store(queries[q].weights, mul(low[q], set1(scale)));
    store(queries[q].weights + kVec, mul(high[q], set1(scale)));
  }
}

// Scores to weights; returns the factor that the sums so far shrink by.
inline float soften(const Query& query, bool has_slope) {
  float* weights = query.weights;
  if (has_slope) {
    for (int64_t key = 0; key < kKeyChunk; ++key)
      weights[key] += query.slope * static_cast<float>(key - query.distance);
  }
  for (int64_t key = query.count; key < kKeyChunk; ++key) weights[key] = -std::numeric_limits<float>::infinity();
  const float best = max_of(larger(load(weights), load(weights + kVec)));
  const float maximum = best > *query.maximum ? best : *query.maximum;
  for (int64_t key = 0; key < kKeyChunk; ++key) weights[key] = exp_of(weights[key] - maximum);
  const float sum = sum_of(add(load(weights), load(weights + kVec)));
  const float shrink = exp_of(*query.maximum - maximum);
  *query.total = *query.total * shrink + sum;
  *query.maximum = maximum;
  return shrink;
}

// sums = sums * shrink + weights * values, keys in order, for kVecs vectors of head_dim and kQueries queries that see
// equally many keys.
template <int kQueries, int kVecs>
inline void add_values(const Query* queries, const float* shrinks, const float* values, int64_t padded,
                       int64_t offset) {
  Vec sums[kQueries][kVecs];
#pragma GCC unroll 4
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      sums[q][v] = mul(load(queries[q].sums + offset + v * kVec), set1(shrinks[q]));
    }
  }
  const int64_t count = queries[0].count;
  for (int64_t key = 0; key < count; ++key) {
    Vec value[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) value[v] = load(values + key * padded + offset + v * kVec);
#pragma GCC unroll 4
    for (int q = 0; q < kQueries; ++q) {
      const Vec weight = set1(queries[q].weights[key]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sums[q][v] = fma(weight, value[v], sums[q][v]);
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) store(queries[q].sums + offset + v * kVec, sums[q][v]);
  }
}

template <int kQueries>
inline void add_all_values(const Query* queries, const float* shrinks, const float* values, int64_t padded) {
  int64_t offset = 0;
  for (; offset + 4 * kVec <= padded; offset += 4 * kVec)
    add_values<kQueries, 4>(queries, shrinks, values, padded, offset);
  for (; offset < padded; offset += kVec) add_values<kQueries, 1>(queries, shrinks, values, padded, offset);
}

template <int kQueries>
void attend_block(const AttentionTile& tile, const Query* queries, const Chunk& chunk) {
  const int64_t padded = (tile.head_dim + kVec - 1) / kVec * kVec;
  score<kQueries>(queries, chunk, tile.head_dim, tile.scale);
  float shrinks[kQueries];
  bool is_even = true;
  for (int q = 0; q < kQueries; ++q) {
    shrinks[q] = soften(queries[q], tile.alibi_slopes != nullptr);
    is_even = is_even && queries[q].count == queries[0].count;
  }
  if (is_even) return add_all_values<kQueries>(queries, shrinks, chunk.values, padded);
  for (int q = 0; q < kQueries; ++q) add_all_values<1>(queries + q, shrinks + q, chunk.values, padded);
}

void attend(const AttentionTile& tile, const Query* queries, int64_t num_queries, const Chunk& chunk) {
  switch (num_queries) {
    case 0:
      return;
    case 1:
      return attend_block<1>(tile, queries, chunk);
    case 2:
      return attend_block<2>(tile, queries, chunk);
    case 3:
      return attend_block<3>(tile, queries, chunk);
    default:
      return attend_block<4>(tile, queries, chunk);
  }
}

template <typename T>
void attention_tile(const AttentionTile& tile) {
  const int64_t dim = tile.head_dim, padded = (dim + kVec - 1) / kVec * kVec, group = tile.group_size;
  const int64_t num_queries = tile.num_rows * group, chunk_floats = kKeyChunk * padded;
  const Chunk shared{tile.scratch, tile.scratch + chunk_floats};
  const Chunk own{tile.scratch + 2 * chunk_floats, tile.scratch + 3 * chunk_floats};
  float* sums = tile.scratch + 4 * chunk_floats;
  float* weights = sums + num_queries * padded;
  float* maxima = weights + num_queries * kKeyChunk;
  float* totals = maxima + num_queries;
  int64_t longest = 0;
  for (int64_t i = 0; i < num_queries * padded; ++i) sums[i] = 0.0f;
  for (int64_t i = 0; i < num_queries; ++i) {
    maxima[i] = -std::numeric_limits<float>::infinity();
    totals[i] = 0.0f;
  }
  for (int64_t row = 0; row < tile.num_rows; ++row) {
    if (tile.rows[row].num_keys() > longest) longest = tile.rows[row].num_keys();
  }
  for (int64_t start = 0; start < longest; start += kKeyChunk) {
    int64_t num_shared = 0;
    for (int64_t row = 0; row < tile.num_rows; ++row) {
      const int64_t from_context = least(tile.rows[row].context_len - start, kKeyChunk);
      if (from_context > num_shared) num_shared = from_context;
    }
    if (num_shared > 0) load_chunk<T>(tile, tile.rows[0].context + start, num_shared, shared);
    Query block[kMaxBlock];
    int64_t num_in_block = 0;
    for (int64_t row_index = 0; row_index < tile.num_rows; ++row_index) {
      const AttentionRow& row = tile.rows[row_index];
      const int64_t count = least(row.num_keys() - start, kKeyChunk);
      if (count <= 0) continue;
      const bool is_shared = row.context_len - start >= count;
      if (!is_shared) {
        attend(tile, block, num_in_block, shared);
        num_in_block = 0;
        int32_t slots[kKeyChunk];
        for (int64_t i = 0; i < count; ++i) {
          const int64_t position = start + i;
          slots[i] = position < row.context_len ? row.context[position] : row.path[position - row.context_len];
        }
        load_chunk<T>(tile, slots, count, own);
      }
      const Chunk& chunk = is_shared ? shared : own;
      for (int64_t head = 0; head < group; ++head) {
        const int64_t q = row_index * group + head;
        block[num_in_block++] = {tile.queries + row_index * tile.row_stride + head * dim,
                                 count,
                                 row.num_keys() - 1 - start,
                                 tile.alibi_slopes == nullptr ? 0.0f : tile.alibi_slopes[head],
                                 sums + q * padded,
                                 weights + q * kKeyChunk,
                                 maxima + q,
                                 totals + q};
        if (num_in_block == kMaxBlock || (!is_shared && head + 1 == group)) {
          attend(tile, block, num_in_block, chunk);
          num_in_block = 0;
        }
      }
    }
    attend(tile, block, num_in_block, shared);
  }
  for (int64_t q = 0; q < num_queries; ++q) {
    const float inverse = 1.0f / totals[q];
    float* out = tile.out + q / group * tile.row_stride + q % group * dim;
    for (int64_t d = 0; d < dim; ++d) out[d] = sums[q * padded + d] * inverse;
  }
}

void attention_tile_of(DType dtype, const AttentionTile& tile) {
  with_type(dtype, [&](auto* type) { attention_tile<std::remove_pointer_t<decltype(type)>>(tile); });
}

}  // namespace
}  // namespace specgrove
