// The float form of attention: products of floats, of keys and values that are widened to floats a chunk at a time.
// Compiled once per instruction set.
#pragma once

#include "attention_chunk.h"
#include "attention_walk.h"
#include "vector_math.h"

namespace specgrove {
namespace {

// Queries that share the registers: 12 or 16 of them hold sums.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int64_t kMaxBlock = 3;
#else
constexpr int64_t kMaxBlock = 4;
#endif
constexpr int kValueRegisters = 4;

constexpr int64_t kKeysFetched = 4;  // of the next chunk, after the scores of a query

struct Query {
  const float* vector;
  Seen seen;
  int64_t distance;  // from the query's position back to the chunk's first
  float slope;
  float *sums, *weights, *maximum, *total;
};

// sums += factor * vector for kQueries queries with a factor each. at(r) is the vector's r-th register: one at a time,
// so that sums and factors stay in registers.
template <int kQueries, int kRegisters, typename At>
inline void add_products(Register (*sums)[kRegisters], const Register* factors, const At& at) {
#pragma GCC unroll 4
  for (int r = 0; r < kRegisters; ++r) {
    const Register vector = at(r);
#pragma GCC unroll 4
    for (int q = 0; q < kQueries; ++q) add_product(sums[q][r], vector, factors[q]);
  }
}

// Scores of kQueries queries for all places of the chunk; a score is summed over head_dim in order.
template <int kQueries>
inline void score(const Query* queries, const float* keys, int64_t dim, float scale) {
  constexpr int kRegisters = kKeyChunk / kRegister;
  Register sums[kQueries][kRegisters];
#pragma GCC unroll 4
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 4
    for (int r = 0; r < kRegisters; ++r) sums[q][r] = fill(0.0f);
  }
  for (int64_t d = 0; d < dim; ++d) {
    Register elements[kQueries];
#pragma GCC unroll 4
    for (int q = 0; q < kQueries; ++q) elements[q] = fill(queries[q].vector[d]);
    const float* const of_keys = keys + d * kKeyChunk;
    add_products<kQueries, kRegisters>(sums, elements, [&](int r) { return load_register(of_keys + r * kRegister); });
  }
#pragma GCC unroll 4
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 4
    for (int r = 0; r < kRegisters; ++r)
      store_register(queries[q].weights + r * kRegister, scaled(sums[q][r], fill(scale)));
  }
}

// Scores to weights, and the factors that the sums so far shrink by. Step by step for all queries: none waits for what
// another's steps hand on.
template <int kQueries>
inline void soften(const AttentionTile& tile, const Query* queries, float* shrinks, ChunkFetch& fetch) {
  for (int q = 0; q < kQueries; ++q) {
    float* const weights = queries[q].weights;
    if (tile.soft_cap > 0.0f) {
      for (int64_t key = 0; key < kKeyChunk; ++key) weights[key] = soft_cap_of(weights[key], tile.soft_cap);
    }
    if (tile.alibi_slopes != nullptr) {
      for (int64_t key = 0; key < kKeyChunk; ++key)
        weights[key] += queries[q].slope * static_cast<float>(key - queries[q].distance);
    }
    for (int64_t key = 0; key < queries[q].seen.begin; ++key) weights[key] = -std::numeric_limits<float>::infinity();
    for (int64_t key = queries[q].seen.end; key < kKeyChunk; ++key)
      weights[key] = -std::numeric_limits<float>::infinity();
  }
  float maxima[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    const float best = max_of(larger(load(queries[q].weights), load(queries[q].weights + kVec)));
    maxima[q] = best > *queries[q].maximum ? best : *queries[q].maximum;
    shrinks[q] = *queries[q].maximum - maxima[q];
    *queries[q].maximum = maxima[q];
  }
  for (int q = 0; q < kQueries; ++q) {
    float* const weights = queries[q].weights;
    for (int64_t key = 0; key < kKeyChunk; ++key) weights[key] = exp_of(weights[key] - maxima[q]);
    fetch.some(kKeysFetched * fetch.num_lines());
  }
  for (int q = 0; q < kMaxBlock; ++q) shrinks[q] = exp_of(shrinks[q]);
  for (int q = 0; q < kQueries; ++q) {
    const float sum = sum_of(add(load(queries[q].weights), load(queries[q].weights + kVec)));
    *queries[q].total = *queries[q].total * shrinks[q] + sum;
  }
}

// sums = sums * shrink + weights * values, keys in order, for kRegisters registers of head_dim and kQueries queries
// that see the same keys.
template <int kQueries, int kRegisters, typename Values>
inline void add_values(const Query* queries, const float* shrinks, const Values& values, int64_t offset) {
  Register sums[kQueries][kRegisters];
#pragma GCC unroll 4
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 4
    for (int r = 0; r < kRegisters; ++r) {
      sums[q][r] = scaled(load_register(queries[q].sums + offset + r * kRegister), fill(shrinks[q]));
    }
  }
  const Seen seen = queries[0].seen;
  for (int64_t key = seen.begin; key < seen.end; ++key) {
    Register weights[kQueries];
#pragma GCC unroll 4
    for (int q = 0; q < kQueries; ++q) weights[q] = fill(queries[q].weights[key]);
    add_products<kQueries, kRegisters>(sums, weights, [&](int r) { return values.at(key, offset + r * kRegister); });
  }
#pragma GCC unroll 4
  for (int q = 0; q < kQueries; ++q) {
#pragma GCC unroll 4
    for (int r = 0; r < kRegisters; ++r) store_register(queries[q].sums + offset + r * kRegister, sums[q][r]);
  }
}

template <int kQueries, typename Values>
inline void add_all_values(const Query* queries, const float* shrinks, const Values& values, int64_t padded) {
  int64_t offset = 0;
  for (; offset + kValueRegisters * kRegister <= padded; offset += kValueRegisters * kRegister)
    add_values<kQueries, kValueRegisters>(queries, shrinks, values, offset);
  for (; offset < padded; offset += kRegister) add_values<kQueries, 1>(queries, shrinks, values, offset);
}

template <int kQueries, typename Values>
void attend_block(const AttentionTile& tile, const Query* queries, const float* keys, const Values& values,
                  ChunkFetch& fetch) {
  const int64_t padded = round_up_to(kVec, tile.head_dim);
  score<kQueries>(queries, keys, tile.head_dim, tile.scale);
  float shrinks[kMaxBlock] = {};
  soften<kQueries>(tile, queries, shrinks, fetch);
  bool is_even = true;
  for (int q = 1; q < kQueries; ++q) is_even = is_even && queries[q].seen == queries[0].seen;
  if (is_even) return add_all_values<kQueries>(queries, shrinks, values, padded);
  for (int q = 0; q < kQueries; ++q) add_all_values<1>(queries + q, shrinks + q, values, padded);
}

template <typename Values>
void attend(const AttentionTile& tile, const Query* queries, int64_t num_queries, const float* keys,
            const Values& values, ChunkFetch& fetch) {
  switch (num_queries) {
    case 0:
      return;
    case 1:
      return attend_block<1>(tile, queries, keys, values, fetch);
    case 2:
      return attend_block<2>(tile, queries, keys, values, fetch);
    case 3:
      return attend_block<3>(tile, queries, keys, values, fetch);
    default:
      return attend_block<kMaxBlock>(tile, queries, keys, values, fetch);
  }
}

// Of a chunk of keys and values as floats: see walk_keys.
template <typename T>
class FloatForm {
 public:
  ChunkFetch fetch;

  explicit FloatForm(const AttentionTile& tile)
      : fetch(tile, sizeof(T)),
        tile_(tile),
        padded_(round_up_to(kVec, tile.head_dim)),
        num_queries_(tile.num_rows * tile.num_heads) {
    const int64_t chunk_floats = kKeyChunk * padded_;
    shared_ = {tile.scratch, tile.scratch + chunk_floats};
    own_ = {tile.scratch + 2 * chunk_floats, tile.scratch + 3 * chunk_floats};
    sums_ = tile.scratch + 4 * chunk_floats;
    weights_ = sums_ + num_queries_ * padded_;
    known_ = weights_ + num_queries_ * kKeyChunk;
    maxima_ = known_ + num_queries_ * (padded_ + 2);
    totals_ = maxima_ + num_queries_;
    for (int64_t q = 0; q < num_queries_; ++q) know_nothing(known_ + q * (padded_ + 2), padded_);
    hold_nothing(held_);
    reads_in_place_ = num_queries_ <= kMaxBlock && tile.head_dim % kVec == 0;
  }

  static int64_t scratch_floats(int64_t num_rows, int64_t num_heads, int64_t head_dim) {
    const int64_t padded = round_up_to(kVec, head_dim);
    return 4 * kKeyChunk * padded + num_rows * num_heads * (padded + kKeyChunk + (padded + 2) + 2);
  }

  void begin_segment() {
    for (int64_t i = 0; i < num_queries_ * padded_; ++i) sums_[i] = 0.0f;
    for (int64_t q = 0; q < num_queries_; ++q) {
      maxima_[q] = -std::numeric_limits<float>::infinity();
      totals_[q] = 0.0f;
    }
  }

  void end_segment() {
    for (int64_t q = 0; q < num_queries_; ++q) {
      merge_segment<exp_of>(known_ + q * (padded_ + 2), sums_ + q * padded_, maxima_[q], totals_[q], padded_);
    }
  }

  void load_shared(const ChunkSlots& slots, Seen) {
    load(slots, shared_);
    shared_slots_ = slots;
  }

  bool may_share() const { return true; }

  void attend_shared(int64_t first_row, int64_t num_rows, int64_t start) {
    attend_rows(first_row, num_rows, start, shared_, shared_slots_);
  }

  void attend_own(int64_t row, const ChunkSlots& slots, Seen seen, int64_t start) {
    load_missing(slots, seen, held_, [&] { load(slots, own_); }, [&](int64_t place) { load(slots, place, own_); });
    attend_rows(row, 1, start, own_, slots);
  }

  const float* known() const { return known_; }

 private:
  void load(const ChunkSlots& slots, const Chunk& chunk) {
    load_keys<T>(tile_, slots, chunk, fetch);
    if (!reads_in_place_) load_values<T>(tile_, slots, chunk);
  }

  void load(const ChunkSlots& slots, int64_t place, const Chunk& chunk) {
    load_key<T>(tile_, slots.at[place], place, chunk);
    if (!reads_in_place_) load_value<T>(tile_, slots.at[place], place, chunk);
  }

  void attend_rows(int64_t first_row, int64_t num_rows, int64_t start, const Chunk& chunk, const ChunkSlots& slots) {
    Query block[kMaxBlock];
    int64_t num_in_block = 0;
    const auto attend_waiting = [&] {
      if (reads_in_place_) {
        attend(tile_, block, num_in_block, chunk.keys, CachedValues<T>(tile_, slots), fetch);
      } else {
        attend(tile_, block, num_in_block, chunk.keys, ChunkValues{chunk.values, padded_}, fetch);
      }
      num_in_block = 0;
    };
    for (int64_t row = first_row; row < first_row + num_rows; ++row) {
      for (int64_t head = 0; head < tile_.num_heads; ++head) {
        block[num_in_block++] = query_of(row, head, start);
        if (num_in_block == kMaxBlock) attend_waiting();
      }
    }
    attend_waiting();
  }

  Query query_of(int64_t row, int64_t head, int64_t start) const {
    const int64_t q = row * tile_.num_heads + head;
    return {tile_.queries + row * tile_.row_stride + head * tile_.head_dim,
            places_seen(tile_, row, start),
            tile_.rows[row].num_keys() - 1 - start,
            tile_.alibi_slopes == nullptr ? 0.0f : tile_.alibi_slopes[head],
            sums_ + q * padded_,
            weights_ + q * kKeyChunk,
            maxima_ + q,
            totals_ + q};
  }

  const AttentionTile& tile_;
  int64_t padded_, num_queries_;
  Chunk shared_, own_;
  ChunkSlots shared_slots_, held_;  // the latter by the chunk that rows have of their own
  bool reads_in_place_;             // for few queries values are not worth being loaded into a chunk
  float *sums_, *weights_, *known_, *maxima_, *totals_;
};

template <typename T>
void float_tile(const AttentionTile& tile) {
  FloatForm<T> form(tile);
  walk_keys(tile, form);
  write_results(tile, form.known());
}

template <typename T>
AttentionKernels float_attention() {
  return {float_tile<T>, merge_partials<exp_of>, FloatForm<T>::scratch_floats};
}

}  // namespace
}  // namespace specgrove
