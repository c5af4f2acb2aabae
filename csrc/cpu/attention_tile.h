// The body of an attention tile, compiled once per instruction set.
//
// No std containers or algorithms here: an out-of-line copy of them, made with these files' instructions, could be the
// one that the linker keeps for all files.
#include <limits>

#include "attention.h"
#include "attention_chunk.h"
#include "simd.h"
#include "vector_math.h"

namespace specgrove {
namespace {

constexpr int64_t kMaxBlock = 4;  // queries that share the registers

struct Query {
  const float* vector;
  int64_t begin;  // it sees keys from begin to count of the chunk
  int64_t count;
  int64_t distance;  // from the query's position back to the chunk's first
  float slope;
  float *sums, *weights, *maximum, *total;
};

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
  for (int64_t key = 0; key < query.begin; ++key) weights[key] = -std::numeric_limits<float>::infinity();
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
// the same keys.
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
  for (int64_t key = queries[0].begin; key < count; ++key) {
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
    is_even = is_even && queries[q].begin == queries[0].begin && queries[q].count == queries[0].count;
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

// The first position that a row sees.
inline int64_t first_seen(const AttentionTile& tile, int64_t row) {
  const int64_t num_keys = tile.rows[row].num_keys();
  return num_keys > tile.window ? num_keys - tile.window : 0;
}

// How many places of the chunk at start a row's keys reach into; 0 if it sees none of them.
inline int64_t num_seen(const AttentionTile& tile, int64_t row, int64_t start) {
  const int64_t count = least(tile.rows[row].num_keys() - start, kKeyChunk);
  return count > 0 && start + count > first_seen(tile, row) ? count : 0;
}

// Puts what a further segment found to what is known of a query; nothing where the query sees none of its keys.
inline void merge_segment(float* known, const float* sums, float maximum, float total, int64_t padded) {
  if (total == 0.0f) return;
  float *known_maximum = known + padded, *known_total = known + padded + 1;
  const float larger = maximum > *known_maximum ? maximum : *known_maximum;
  const float known_shrink = exp_of(*known_maximum - larger), shrink = exp_of(maximum - larger);
  for (int64_t d = 0; d < padded; d += kVec) {
    store(known + d, fma(load(sums + d), set1(shrink), mul(load(known + d), set1(known_shrink))));
  }
  *known_total = *known_total * known_shrink + total * shrink;
  *known_maximum = larger;
}

// Before the first segment.
inline void know_nothing(float* known, int64_t padded) {
  for (int64_t d = 0; d < padded; ++d) known[d] = 0.0f;
  known[padded] = -std::numeric_limits<float>::infinity();
  known[padded + 1] = 0.0f;
}

inline void write_out(const float* known, int64_t dim, int64_t padded, float* out) {
  const float inverse = 1.0f / known[padded + 1];
  for (int64_t d = 0; d < dim; ++d) out[d] = known[d] * inverse;
}

void attention_merge_of(const AttentionMerge& merge) {
  const int64_t padded = (merge.head_dim + kVec - 1) / kVec * kVec;
  know_nothing(merge.merged, padded);
  for (int64_t segment = 0; segment < merge.num_segments; ++segment) {
    const float* partial = merge.partials + segment * merge.segment_stride;
    merge_segment(merge.merged, partial, partial[padded], partial[padded + 1], padded);
  }
  write_out(merge.merged, merge.head_dim, padded, merge.out);
}

template <typename T>
void attention_tile(const AttentionTile& tile) {
  const int64_t dim = tile.head_dim, padded = (dim + kVec - 1) / kVec * kVec, group = tile.num_heads;
  const int64_t num_queries = tile.num_rows * group, chunk_floats = kKeyChunk * padded;
  const Chunk shared{tile.scratch, tile.scratch + chunk_floats};
  const Chunk own{tile.scratch + 2 * chunk_floats, tile.scratch + 3 * chunk_floats};
  float* sums = tile.scratch + 4 * chunk_floats;
  float* weights = sums + num_queries * padded;
  float* maxima = weights + num_queries * kKeyChunk;
  float* totals = maxima + num_queries;
  float* known = totals + num_queries;
  const int64_t known_stride = padded + 2;
  const auto begin_segment = [&] {
    for (int64_t i = 0; i < num_queries * padded; ++i) sums[i] = 0.0f;
    for (int64_t i = 0; i < num_queries; ++i) {
      maxima[i] = -std::numeric_limits<float>::infinity();
      totals[i] = 0.0f;
    }
  };
  const auto end_segment = [&] {
    for (int64_t i = 0; i < num_queries; ++i) {
      merge_segment(known + i * known_stride, sums + i * padded, maxima[i], totals[i], padded);
    }
  };
  for (int64_t i = 0; i < num_queries; ++i) know_nothing(known + i * known_stride, padded);
  begin_segment();
  int64_t earliest = first_seen(tile, 0), longest = 0;
  for (int64_t row = 0; row < tile.num_rows; ++row) {
    earliest = least(earliest, first_seen(tile, row));
    if (tile.rows[row].num_keys() > longest) longest = tile.rows[row].num_keys();
  }
  earliest = earliest > tile.begin ? earliest : tile.begin;
  longest = least(longest, tile.end);
  const int64_t first_start = earliest / kKeyChunk * kKeyChunk;
  const auto fetch = [&](int64_t start) {  // rows of a tile share one context
    fetch_chunk<T>(tile, tile.rows[0].context + start, least(tile.rows[0].context_len - start, kKeyChunk));
  };
  if (first_start < longest) fetch(first_start);
  for (int64_t start = first_start; start < longest; start += kKeyChunk) {
    fetch(start + kKeyChunk);
    if (start % kSegmentKeys == 0 && start > first_start) {
      end_segment();
      begin_segment();
    }
    int64_t num_shared = 0;
    for (int64_t row = 0; row < tile.num_rows; ++row) {
      const int64_t count = num_seen(tile, row, start);
      if (count > num_shared && count <= tile.rows[row].context_len - start) num_shared = count;
    }
    if (num_shared > 0) load_chunk<T>(tile, tile.rows[0].context + start, num_shared, shared);
    Query block[kMaxBlock];
    int64_t num_in_block = 0;
    Held held{{}, 0};
    for (int64_t row_index = 0; row_index < tile.num_rows; ++row_index) {
      const AttentionRow& row = tile.rows[row_index];
      const int64_t count = num_seen(tile, row_index, start), before = first_seen(tile, row_index) - start;
      if (count == 0) continue;
      const bool is_shared = row.context_len - start >= count;
      if (!is_shared) {
        attend(tile, block, num_in_block, shared);
        num_in_block = 0;
        int32_t slots[kKeyChunk];
        for (int64_t i = 0; i < count; ++i) {
          const int64_t position = start + i;
          slots[i] = position < row.context_len ? row.context[position] : row.path[position - row.context_len];
        }
        load_missing<T>(tile, slots, count, own, held);
      }
      const Chunk& chunk = is_shared ? shared : own;
      for (int64_t head = 0; head < group; ++head) {
        const int64_t q = row_index * group + head;
        block[num_in_block++] = {tile.queries + row_index * tile.row_stride + head * dim,
                                 before > 0 ? before : 0,
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
  end_segment();
  for (int64_t q = 0; q < num_queries; ++q) {
    const float* const result = known + q * known_stride;
    if (tile.partials == nullptr) {
      write_out(result, dim, padded, tile.out + q / group * tile.row_stride + q % group * dim);
    } else {
      float* const partial = tile.partials + q / group * tile.partial_row_stride + q % group * known_stride;
      for (int64_t i = 0; i < known_stride; ++i) partial[i] = result[i];
    }
  }
}

void attention_tile_of(DType dtype, const AttentionTile& tile) {
  with_type(dtype, [&](auto* type) { attention_tile<std::remove_pointer_t<decltype(type)>>(tile); });
}

}  // namespace
}  // namespace specgrove
