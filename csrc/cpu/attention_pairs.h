// The form of attention for caches in bfloat16: products of pairs of bfloat16 numbers, summed in float32, over blocks
// of queries. Queries and weights are rounded to bfloat16 once, as keys and values were when they were stored.
//
// A file that includes this gives `Products`, made with a tile's number of queries and of heads, with
//   score(queries, num_pairs, count, keys, scores)    scores = queries * keys
//   add_values(weights, count, values, padded, sums)  sums += weights * values
// for up to kBlockQueries queries; matrices lie one row behind another, and may be read (and scores written) to the end
// of a block.
// One arithmetic serves chunks that rows share and those of one row, and every key keeps its place among its chunk's
// 32, so a row's bits are those of the same tokens as a plain sequence. Places that a query doesn't see hold numbers
// (their values are zeros where a chunk has an infinity), and have the weight zero.
#pragma once

#include "attention_pair_chunk.h"
#include "attention_softmax.h"
#include "vector_math.h"

namespace specgrove {
namespace {

constexpr int64_t kBlockQueries = 16;
constexpr float kLog2E = 1.44269504f;

inline void round_query(const float* query, int64_t dim, float scale, uint16_t* out) {
  for (int64_t d = 0; d < dim; ++d) {
    BFloat16 rounded;
    from_float(query[d] * scale, &rounded);
    out[d] = rounded.bits;
  }
}

template <typename Products>
class PairForm {
 public:
  ChunkFetch fetch;

  explicit PairForm(const AttentionTile& tile)
      : fetch(tile, sizeof(BFloat16)),
        tile_(tile),
        dim_(tile.head_dim),
        padded_(round_up_to(kPairDims, dim_)),
        num_queries_(tile.num_rows * tile.num_heads),
        products_(num_queries_, tile.num_heads) {
    float* next = tile.scratch;
    const auto take = [&](int64_t num_floats) {
      float* const taken = next;
      next += round_up_to(kVec, num_floats);
      return taken;
    };
    for (PairChunk* chunk : {&shared_, &own_}) {
      chunk->keys = reinterpret_cast<uint32_t*>(take(chunk_words()));
      chunk->values = reinterpret_cast<uint32_t*>(take(chunk_words()));
    }
    scores_ = take(kBlockQueries * kKeyChunk);
    weights_ = reinterpret_cast<uint16_t*>(take(kBlockQueries * kKeyChunk / 2));
    queries_ = reinterpret_cast<uint16_t*>(take((num_queries_ + kBlockQueries) * padded_ / 2));
    sums_ = take(num_queries_ * padded_);
    totals_ = take(num_queries_ * kVec);
    maxima_ = take(num_queries_);
    known_ = take(num_queries_ * known_stride());
    round_queries();
    for (int64_t q = 0; q < num_queries_; ++q) know_nothing(known_ + q * known_stride(), known_stride() - 2);
    hold_nothing(held_);
  }

  static int64_t scratch_floats(int64_t num_rows, int64_t num_heads, int64_t head_dim) {
    const int64_t padded = round_up_to(kPairDims, head_dim), num_queries = num_rows * num_heads;
    return 4 * (padded / 2 * kKeyChunk) + kBlockQueries * (kKeyChunk * 3 / 2 + padded / 2) +
           num_queries * (padded / 2 + padded + kVec + 1 + padded + 2) + 2 * kVec;
  }

  void begin_segment() {
    for (int64_t i = 0; i < num_queries_ * padded_; ++i) sums_[i] = 0.0f;
    for (int64_t i = 0; i < num_queries_ * kVec; ++i) totals_[i] = 0.0f;
    for (int64_t q = 0; q < num_queries_; ++q) maxima_[q] = -std::numeric_limits<float>::infinity();
  }

  void end_segment() {
    for (int64_t q = 0; q < num_queries_; ++q) {
      const float total = sum_of(load(totals_ + q * kVec));
      merge_segment<power_of_two>(known_ + q * known_stride(), sums_ + q * padded_, maxima_[q], total,
                                  known_stride() - 2);
    }
  }

  void load_shared(const ChunkSlots& slots, Seen shared) {
    fetch.rest();
    load_pairs(tile_, slots, shared_);
    clear_unseen(shared_.values, padded_, shared);
    is_finite_known_ = false;
  }

  bool may_share() {
    if (!is_finite_known_) is_shared_finite_ = is_finite(shared_.values, chunk_words());
    is_finite_known_ = true;
    return is_shared_finite_;
  }

  void attend_shared(int64_t first_row, int64_t num_rows, int64_t start) {
    attend_rows(first_row, num_rows, start, shared_);
  }

  void attend_own(int64_t row, const ChunkSlots& slots, Seen seen, int64_t start) {
    fetch.rest();
    const auto load_all = [&] {
      load_pairs(tile_, slots, own_);
      is_own_finite_ = is_finite(own_.values, chunk_words());
    };
    load_missing(slots, seen, held_, load_all, [&](int64_t place) {
      load_pair_place(tile_, slots.at[place], place, own_);
      is_own_finite_ = is_own_finite_ && is_finite(own_.values + place / 2 * padded_, padded_);
    });
    if (!is_own_finite_) {
      load_all();  // without what only other rows see
      clear_unseen(own_.values, padded_, seen);
    }
    attend_rows(row, 1, start, own_);
    if (!is_own_finite_) hold_nothing(held_);
  }

  const float* known() const { return known_; }

 private:
  int64_t chunk_words() const { return padded_ / 2 * kKeyChunk; }
  int64_t known_stride() const { return round_up_to(kVec, dim_) + 2; }

  void round_queries() {
    for (int64_t row = 0; row < tile_.num_rows; ++row) {
      for (int64_t head = 0; head < tile_.num_heads; ++head) {
        uint16_t* const rounded = queries_ + (row * tile_.num_heads + head) * padded_;
        round_query(tile_.queries + row * tile_.row_stride + head * dim_, dim_, tile_.scale * kLog2E, rounded);
        for (int64_t d = dim_; d < padded_; ++d) rounded[d] = 0;
      }
    }
  }

  void attend_rows(int64_t first_row, int64_t num_rows, int64_t start, const PairChunk& chunk) {
    const int64_t first = first_row * tile_.num_heads, end = first + num_rows * tile_.num_heads;
    Place place{first_row, 0};
    for (int64_t q = first; q < end; q += kBlockQueries) {
      attend_block(q, least(kBlockQueries, end - q), place, start, chunk);
    }
  }

  // Of a query among the tile's.
  struct Place {
    int64_t row, head;
  };

  void attend_block(int64_t first, int64_t count, Place& place, int64_t start, const PairChunk& chunk) {
    products_.score(queries_ + first * padded_, padded_ / 2, count, chunk.keys, scores_);
    for (int64_t i = 0; i < count; ++i) {
      weigh(first + i, place, start, scores_ + i * kKeyChunk, weights_ + i * kKeyChunk);
      if (++place.head == tile_.num_heads) place = {place.row + 1, 0};
    }
    products_.add_values(weights_, count, chunk.values, padded_, sums_ + first * padded_);
  }

  void weigh(int64_t q, Place place, int64_t start, float* scores, uint16_t* weights) {
    if (tile_.soft_cap > 0.0f) {  // in the units of the scores
      for (int64_t key = 0; key < kKeyChunk; ++key) scores[key] = soft_cap_of(scores[key], tile_.soft_cap * kLog2E);
    }
    Scores of_chunk{load(scores), load(scores + kVec)};
    if (tile_.alibi_slopes != nullptr) {
      add_slope(of_chunk, tile_.alibi_slopes[place.head] * kLog2E, tile_.rows[place.row].num_keys() - 1 - start);
    }
    Softmax query{maxima_[q], totals_ + q * kVec, sums_ + q * padded_};
    soften(of_chunk, places_seen(tile_, place.row, start), query, padded_, weights);
    maxima_[q] = query.maximum;
  }

  const AttentionTile& tile_;
  int64_t dim_, padded_, num_queries_;
  Products products_;
  PairChunk shared_, own_;
  ChunkSlots held_;  // by the chunk that rows have of their own
  bool is_finite_known_ = false, is_shared_finite_ = false, is_own_finite_ = true;
  float *scores_, *sums_, *totals_, *maxima_, *known_;
  uint16_t *weights_, *queries_;
};

template <typename Products>
void pair_tile(const AttentionTile& tile) {
  PairForm<Products> form(tile);
  walk_keys(tile, form);
  write_results(tile, form.known());
}

template <typename Products>
AttentionKernels pair_attention() {
  return {pair_tile<Products>, merge_partials<power_of_two>, PairForm<Products>::scratch_floats};
}

}  // namespace
}  // namespace specgrove
