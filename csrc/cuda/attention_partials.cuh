// Partial results of tree attention: what splits and spans of keys leave, and how it is put together.
#pragma once

#include "attention_softmax.cuh"

namespace specgrove::cuda {

struct alignas(8) Pair {
  float values[2];
};
__device__ inline Pair load_pair(const float* source) { return *reinterpret_cast<const Pair*>(source); }
__device__ inline void store_pair(float* target, float first, float second) {
  *reinterpret_cast<Pair*>(target) = {{first, second}};
}

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
    const Pair before = load_pair(partials + kTileQueries * kHeadDim + 2 * query);
    const Joined joined = join(before.values[0], running->maxima[i]);
    running->maxima[i] = joined.maximum;
    running->totals[i] = add_joined(joined, before.values[1], running->totals[i]);
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      const Pair sums = load_pair(partials + query * kHeadDim + d * 8 + 2 * (lane % 4));
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        running->sums[d][2 * i + j] = add_joined(joined, sums.values[j], running->sums[d][2 * i + j]);
      }
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
      store_pair(partials + query * kHeadDim + d * 8 + 2 * (lane % 4), running.sums[d][2 * i],
                 running.sums[d][2 * i + 1]);
    }
    if (lane % 4 == 0) {
      store_pair(partials + kTileQueries * kHeadDim + 2 * query, running.maxima[i], running.totals[i]);
    }
  }
}

// Puts num_parts partial results together, in their order: into the first, or, where they are all that the tile's rows
// see, into the rows. A warp takes a query at a time.
template <typename T, int kHeadDim, int kWarps>
__device__ inline void merge_parts(const TreeAttention& attention, const Work& work, float* first, int64_t step,
                                   int num_parts, bool is_all) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int query = static_cast<int>(threadIdx.x) / kWarpSize; query < work.num_queries; query += kWarps) {
    float* const own = first + kTileQueries * kHeadDim + 2 * query;
    Joined joined[kSpanSplits];
    float maximum = minus_infinity(), total = 0.0f;
#pragma unroll
    for (int part = 0; part < kSpanSplits; ++part) {
      if (part >= num_parts) continue;
      const Pair found = load_pair(own + part * step);
      joined[part] = join(maximum, found.values[0]);
      maximum = joined[part].maximum;
      total = add_joined(joined[part], total, found.values[1]);
    }
    __syncwarp();  // all lanes have read what is overwritten
    if (!is_all && lane == 0) store_pair(own, maximum, total);
    const float share = 1.0f / total;
    auto* const out = static_cast<uint32_t*>(attention.out) + head_index(attention, work, query) * (kHeadDim / 2);
    for (int pair = lane; pair < kHeadDim / 2; pair += kWarpSize) {
      float* const place = first + query * kHeadDim + 2 * pair;
      float sums[2] = {0.0f, 0.0f};
#pragma unroll
      for (int part = 0; part < kSpanSplits; ++part) {
        if (part >= num_parts) continue;
        const Pair found = load_pair(place + part * step);
        for (int j = 0; j < 2; ++j) sums[j] = add_joined(joined[part], sums[j], found.values[j]);
      }
      if (is_all) {
        out[pair] = pack<T>(sums[0] * share, sums[1] * share);
      } else {
        store_pair(place, sums[0], sums[1]);
      }
    }
  }
}

// Whether this block is the last of so many to arrive; all threads get the answer. Their writes are then seen.
__device__ inline bool is_last(uint32_t* arrived, int num_blocks, uint32_t* shared) {
  fence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const bool is_last = atomic_add(arrived, 1) + 1 == static_cast<uint32_t>(num_blocks);
    if (is_last) *arrived = 0;
    *shared = is_last ? 1 : 0;
  }
  __syncthreads();
  fence();
  const bool found = *shared != 0;
  __syncthreads();
  return found;
}

// Goes upwards from an item: whoever completes kSpanSplits neighbouring parts puts them
// together, which is a part of the next level. So many processors share what there is to read after a long context.
template <typename T, int kHeadDim, int kWarps>
__device__ inline void merge_upwards(const TreeAttention& attention, const PlanHeader& header, int number,
                                     uint32_t* shared) {
  const Work work = work_of(attention, header, number);  // anew: in between registers are short
  const int item = number / attention.num_kv_heads - work.tile->first_item, num_items = work.num_items;
  const int64_t first_item = work.tile->first_item;
  int level = 0;
  for (int width = 1; width < num_items; width *= kSpanSplits, ++level) {
    const int start = item / (width * kSpanSplits) * (width * kSpanSplits);
    const int num_left = (num_items - start + width - 1) / width;
    const int num_parts = num_left < kSpanSplits ? num_left : kSpanSplits;
    if (num_parts == 1) continue;
    // Where there are two parts of a level, there are more items than levels: each has a counter of its own.
    uint32_t* const arrived = attention.arrived + (first_item + start + level) * attention.num_kv_heads + work.kv_head;
    if (!is_last(arrived, num_parts, shared)) return;
    constexpr int64_t kPartial = Sizes<kHeadDim>::kPartial;
    float* const first = attention.partials + ((first_item + start) * attention.num_kv_heads + work.kv_head) * kPartial;
    merge_parts<T, kHeadDim, kWarps>(attention, work, first, width * attention.num_kv_heads * kPartial, num_parts,
                                     width * kSpanSplits >= num_items);
  }
}

}  // namespace specgrove::cuda
