// Partial results of tree attention: what splits and spans of keys leave, and how it is put together.
#pragma once

#include "attention_softmax.cuh"

namespace specgrove::cuda {

// What a row has of two neighbouring parts of its keys, the first and the second. A part of which it sees nothing
// changes no bit of the other.
struct Joined {
  float maximum, factors[2];
};
__device__ inline Joined join(float first_maximum, float second_maximum) {
  Joined joined;
  joined.maximum = fmaxf(first_maximum, second_maximum);
  // Nothing seen in either: a difference of infinities is no number.
  const float base = joined.maximum == minus_infinity() ? 0.0f : joined.maximum;
  joined.factors[0] = fast_exp2(first_maximum - base);
  joined.factors[1] = fast_exp2(second_maximum - base);
  return joined;
}
// Rounded as written, wherever it is compiled.
__device__ inline float add_joined(const Joined& joined, float first, float second) {
  return fmaf(second, joined.factors[1], first * joined.factors[0]);
}

// Puts what the query's lanes have left of an item's earlier splits before what they have now.
template <int kHeadDim>
__device__ inline void join_partials(const float* partials, const Work& work, int first_query, int lane,
                                     Running<kHeadDim>* running) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = first_query + lane / 4 + 8 * i;
    if (query >= work.num_queries) continue;
    const float* const before = partials + kTileQueries * kHeadDim + 2 * query;
    const Joined joined = join(before[0], running->maxima[i]);
    running->maxima[i] = joined.maximum;
    running->totals[i] = add_joined(joined, before[1], running->totals[i]);
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      const float* const sums = partials + query * kHeadDim + d * 8 + 2 * (lane % 4);
      running->sums[d][2 * i] = add_joined(joined, sums[0], running->sums[d][2 * i]);
      running->sums[d][2 * i + 1] = add_joined(joined, sums[1], running->sums[d][2 * i + 1]);
    }
  }
}

template <int kHeadDim>
__device__ inline void write_partials(float* partials, const Work& work, int first_query, int lane,
                                      const Running<kHeadDim>& running) {
  __syncwarp();  // a query's four lanes have read what was there
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = first_query + lane / 4 + 8 * i;
    if (query >= work.num_queries) continue;
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      float* const sums = partials + query * kHeadDim + d * 8 + 2 * (lane % 4);
      sums[0] = running.sums[d][2 * i];
      sums[1] = running.sums[d][2 * i + 1];
    }
    if (lane % 4 == 0) {
      partials[kTileQueries * kHeadDim + 2 * query] = running.maxima[i];
      partials[kTileQueries * kHeadDim + 2 * query + 1] = running.totals[i];
    }
  }
}

// Puts a tile's items together, in their order: splits into spans, and spans.
template <typename T, int kHeadDim>
__device__ inline void merge_items(const TreeAttention& attention, const Work& work, int num_items) {
  constexpr int64_t kPartial = Sizes<kHeadDim>::kPartial;
  const int64_t step = kPartial * attention.num_kv_heads;
  const float* const first = attention.partials + work.tile->first_item * step + work.kv_head * kPartial;
  const int items_per_span = kSpanSplits / work.splits_per_item;
  for (int i = static_cast<int>(threadIdx.x); i < work.num_queries * (kHeadDim / 2); i += kAttentionThreads) {
    const int query = i / (kHeadDim / 2), pair = i % (kHeadDim / 2);
    float maximum = minus_infinity(), total = 0.0f, sums[2] = {0.0f, 0.0f};
    for (int start = 0; start < num_items; start += items_per_span) {
      float span_maximum = minus_infinity(), span_total = 0.0f, span_sums[2] = {0.0f, 0.0f};
      for (int item = start; item < num_items && item < start + items_per_span; ++item) {
        const float* const partial = first + item * step;
        const float* const own = partial + kTileQueries * kHeadDim + 2 * query;
        const Joined joined = join(span_maximum, own[0]);
        span_maximum = joined.maximum;
        span_total = add_joined(joined, span_total, own[1]);
        for (int j = 0; j < 2; ++j) {
          span_sums[j] = add_joined(joined, span_sums[j], partial[query * kHeadDim + 2 * pair + j]);
        }
      }
      const Joined joined = join(maximum, span_maximum);
      maximum = joined.maximum;
      total = add_joined(joined, total, span_total);
      for (int j = 0; j < 2; ++j) sums[j] = add_joined(joined, sums[j], span_sums[j]);
    }
    const float share = 1.0f / total;
    auto* const out = static_cast<uint32_t*>(attention.out) + head_index(attention, work, query) * (kHeadDim / 2);
    out[pair] = pack<T>(sums[0] * share, sums[1] * share);
  }
}

// Whether this block is the last of the tile's items; all threads get the answer. Their writes are then seen.
__device__ inline bool is_last(const TreeAttention& attention, const Work& work, int num_items, uint32_t* shared) {
  fence();
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* const arrived =
        attention.arrived + static_cast<int64_t>(work.item->tile) * attention.num_kv_heads + work.kv_head;
    const bool is_last = atomic_add(arrived, 1) + 1 == static_cast<uint32_t>(num_items);
    if (is_last) *arrived = 0;
    *shared = is_last ? 1 : 0;
  }
  __syncthreads();
  fence();
  const bool found = *shared != 0;
  __syncthreads();
  return found;
}

}  // namespace specgrove::cuda
