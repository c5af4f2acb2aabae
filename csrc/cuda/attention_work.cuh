// What a block of tree attention works on: its item, and the loading of queries, keys and values into shared memory.
#pragma once

#include "attention_plan.h"
#include "device.cuh"
#include "tree_attention.h"

namespace specgrove::cuda {

constexpr int kWarpQueries = 16;
// Of blocks for tiles of any size, and for those of a pass of few queries.
constexpr int kManyWarps = kTileQueries / kWarpQueries, kFewWarps = kManyWarps / 2;

template <int kHeadDim>
struct Sizes {
  // Rows in shared memory are 16 bytes longer, so that those of a matrix lie in different banks.
  static constexpr int kStride = kHeadDim + 8;
  static constexpr int kWarpBytes = kWarpQueries * kStride * 2;  // a warp's queries
  static constexpr int kKeyBytes = kBlockKeys * kStride * 2;
  static constexpr int kStageBytes = 2 * kKeyBytes;
  static constexpr int kPartial = kTileQueries * (kHeadDim + 2);  // sums, then maxima and totals
};

// What a block knows of its item.
struct Work {
  const PlanItem* item;
  const PlanTile* tile;
  const PlanPass* passes;
  const int32_t *rows, *lengths, *slots;
  int kv_head, group_size, num_queries;
  int num_items;  // of the tile
};

__device__ inline Work work_of(const TreeAttention& attention, const PlanHeader& header, int number) {
  const int32_t* const plan = attention.plan;
  Work work;
  work.kv_head = number % attention.num_kv_heads;
  work.item = reinterpret_cast<const PlanItem*>(plan + header.items) + number / attention.num_kv_heads;
  work.tile = reinterpret_cast<const PlanTile*>(plan + header.tiles) + work.item->tile;
  work.passes = reinterpret_cast<const PlanPass*>(plan + header.passes) + work.item->first_pass;
  work.rows = plan + header.rows + work.tile->first_row;
  work.lengths = plan + header.lengths + work.tile->first_row;
  work.slots = plan + header.slots;
  work.group_size = attention.num_heads / attention.num_kv_heads;
  work.num_queries = work.tile->num_rows * work.group_size;
  work.num_items = (work.tile->num_splits + header.splits_per_item - 1) / header.splits_per_item;
  return work;
}

// Where a query of the tile stands among all rows' heads.
__device__ inline int64_t head_index(const TreeAttention& attention, const Work& work, int query) {
  return static_cast<int64_t>(work.rows[query / work.group_size]) * attention.num_heads +
         work.kv_head * work.group_size + query % work.group_size;
}

// Addresses are read before copies begin, for so many copies at a time: behind each the compiler reads memory anew.
template <int kHeadDim>
constexpr int kCopiesAtOnce = kHeadDim > 128 ? 2 : 4;

template <typename T, int kHeadDim, int kWarps>
__device__ inline void load_queries(const TreeAttention& attention, const Work& work, T* shared) {
  constexpr int kChunks = kHeadDim / 8, kThreads = kWarps * kWarpSize, kAtOnce = kCopiesAtOnce<kHeadDim>;
  constexpr int kAll = kWarps * kWarpQueries * kChunks;
  const auto* const queries = static_cast<const T*>(attention.queries);
#pragma unroll 1
  for (int start = static_cast<int>(threadIdx.x); start < kAll; start += kAtOnce * kThreads) {
    int64_t heads[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int query = (start + j * kThreads) / kChunks;
      heads[j] = query < work.num_queries ? head_index(attention, work, query) : -1;
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = start + j * kThreads, query = i / kChunks, chunk = i % kChunks;
      if (i >= kAll) break;
      copy_async_16(shared + query * Sizes<kHeadDim>::kStride + chunk * 8,
                    queries + (heads[j] < 0 ? 0 : heads[j]) * kHeadDim + chunk * 8, heads[j] >= 0);
    }
  }
}

// Keys, then values. Those that the pass does not have are zeros: a weight of zero would not undo what stands there.
template <typename T, int kHeadDim, int kWarps>
__device__ inline void load_pass(const TreeAttention& attention, const Work& work, int number, T* shared) {
  constexpr int kChunks = kHeadDim / 8, kStride = Sizes<kHeadDim>::kStride;
  constexpr int kAll = kBlockKeys * kChunks, kThreads = kWarps * kWarpSize, kAtOnce = kCopiesAtOnce<kHeadDim>;
  const int num_keys = work.passes[number].num_keys;
  const int32_t* const slots = work.slots + work.passes[number].first_slot;
  const auto* const k_cache = static_cast<const T*>(attention.k_cache) + work.kv_head * kHeadDim;
  const auto* const v_cache = static_cast<const T*>(attention.v_cache) + work.kv_head * kHeadDim;
  const int64_t slot_size = static_cast<int64_t>(attention.num_kv_heads) * kHeadDim;
#pragma unroll 1
  for (int start = static_cast<int>(threadIdx.x); start < kAll; start += kAtOnce * kThreads) {
    int32_t own[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int key = (start + j * kThreads) / kChunks;
      own[j] = key < num_keys ? slots[key] : -1;
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int i = start + j * kThreads, key = i / kChunks, chunk = i % kChunks;
      if (i >= kAll) break;
      const int64_t source = (own[j] < 0 ? 0 : own[j]) * slot_size + chunk * 8;
      T* const target = shared + key * kStride + chunk * 8;
      copy_async_16(target, k_cache + source, own[j] >= 0);
      copy_async_16(target + kBlockKeys * kStride, v_cache + source, own[j] >= 0);
    }
  }
}

}  // namespace specgrove::cuda
