// A block takes items (a tile's share of a split, for one KV head) one after the other. Its warps load keys and values
// together, one or two passes ahead, and each computes 16 of the tile's queries: scores by tensor cores, a running
// softmax over the passes, values by tensor cores. A row that a pass is not for is left as it is, bit for bit: its
// factor is one and its weights are zero. Splits leave partial results; the last block of a tile to arrive puts them
// together in their order.
#include <cmath>
#include <stdexcept>

#include "attention_plan.h"
#include "device.cuh"
#include "tree_attention.h"

namespace specgrove::cuda {
namespace {

constexpr int kWarps = kTileQueries / 16;
constexpr int kThreads = kWarps * kWarpSize;
constexpr float kLog2E = 1.44269504f;

__device__ inline float minus_infinity() { return -HUGE_VALF; }

template <int kHeadDim>
struct Sizes {
  // Rows in shared memory are 16 bytes longer, so that those of a matrix lie in different banks.
  static constexpr int kStride = kHeadDim + 8;
  static constexpr int kTileBytes = kTileQueries * kStride * 2;
  static constexpr int kKeyBytes = kBlockKeys * kStride * 2;
  static constexpr int kStageBytes = 2 * kKeyBytes;
  static constexpr int kStages = kHeadDim > 128 ? 2 : 3;
  static constexpr size_t kSharedBytes = kTileBytes + kStages * kStageBytes;
  static constexpr int kPartial = kTileQueries * (kHeadDim + 2);  // sums, then maxima and totals
};

// What a block knows of its item.
struct Work {
  const PlanItem* item;
  const PlanTile* tile;
  const PlanPass* passes;
  const int32_t *rows, *lengths, *slots;
  int kv_head, group_size, num_queries;
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
  return work;
}

// Where a query of the tile stands among all rows' heads.
__device__ inline int64_t head_index(const TreeAttention& attention, const Work& work, int query) {
  return static_cast<int64_t>(work.rows[query / work.group_size]) * attention.num_heads +
         work.kv_head * work.group_size + query % work.group_size;
}

template <typename T, int kHeadDim>
__device__ inline void load_queries(const TreeAttention& attention, const Work& work, T* shared) {
  constexpr int kChunks = kHeadDim / 8;
  const auto* const queries = static_cast<const T*>(attention.queries);
  for (int i = static_cast<int>(threadIdx.x); i < kTileQueries * kChunks; i += kThreads) {
    const int query = i / kChunks, chunk = i % kChunks;
    const bool is_there = query < work.num_queries;
    const int64_t head = is_there ? head_index(attention, work, query) : 0;
    copy_async_16(shared + query * Sizes<kHeadDim>::kStride + chunk * 8, queries + head * kHeadDim + chunk * 8,
                  is_there);
  }
}

// Keys, then values. Those that the pass does not have are zeros: a weight of zero would not undo what stands there.
template <typename T, int kHeadDim>
__device__ inline void load_pass(const TreeAttention& attention, const Work& work, int number, T* shared) {
  constexpr int kChunks = kHeadDim / 8, kStride = Sizes<kHeadDim>::kStride;
  const PlanPass& pass = work.passes[number];
  for (int i = static_cast<int>(threadIdx.x); i < kBlockKeys * kChunks; i += kThreads) {
    const int key = i / kChunks, chunk = i % kChunks;
    const bool is_there = key < pass.num_keys;
    const int64_t slot = is_there ? work.slots[pass.first_slot + key] : 0;
    const int64_t source = (slot * attention.num_kv_heads + work.kv_head) * kHeadDim + chunk * 8;
    T* const target = shared + key * kStride + chunk * 8;
    copy_async_16(target, static_cast<const T*>(attention.k_cache) + source, is_there);
    copy_async_16(target + kBlockKeys * kStride, static_cast<const T*>(attention.v_cache) + source, is_there);
  }
}

// The running softmax of a warp's 16 queries. A lane has parts of queries group and group + 8 of them, group = lane
// / 4.
template <int kHeadDim>
struct Running {
  float sums[kHeadDim / 8][4];
  float maxima[2], totals[2];
};

// What a lane knows of its two queries.
struct Queries {
  int row[2], length[2];  // row of the tile, -1: none
  float slope[2];
};

__device__ inline Queries queries_of(const TreeAttention& attention, const Work& work, int first_query, int lane) {
  Queries found;
  for (int i = 0; i < 2; ++i) {
    const int query = first_query + lane / 4 + 8 * i;
    const bool is_there = query < work.num_queries;
    found.row[i] = is_there ? query / work.group_size : -1;
    found.length[i] = is_there ? work.lengths[found.row[i]] : 0;
    found.slope[i] = is_there && attention.alibi_slopes != nullptr
                         ? attention.alibi_slopes[work.kv_head * work.group_size + query % work.group_size] * kLog2E
                         : 0.0f;
  }
  return found;
}

// scores[n] are of keys 8 n + 2 (lane % 4) and the next, of both queries: masked, and in units of log 2.
__device__ inline void mask_scores(const TreeAttention& attention, const PlanPass& pass, const Queries& queries,
                                   int lane, float (&scores)[kBlockKeys / 8][4]) {
  const float scale = attention.scale * kLog2E;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = queries.row[i];
    const bool is_in = row >= 0 && (pass.rows[(row < 0 ? 0 : row) / 32] >> (row & 31) & 1u) != 0;
    const int end = is_in ? queries.length[i] : 0;
    const int start = attention.window > 0 ? queries.length[i] - attention.window : 0;
#pragma unroll
    for (int n = 0; n < kBlockKeys / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int position = pass.first_position + 8 * n + 2 * (lane % 4) + j;
        float& score = scores[n][2 * i + j];
        const float distance = static_cast<float>(position - (queries.length[i] - 1));
        score = position < end && position >= start ? score * scale + queries.slope[i] * distance : minus_infinity();
      }
    }
  }
}

// Turns scores into weights, and scales what was summed up before.
template <int kHeadDim>
__device__ inline void soften(float (&scores)[kBlockKeys / 8][4], Running<kHeadDim>* running) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float highest = minus_infinity();
#pragma unroll
    for (int n = 0; n < kBlockKeys / 8; ++n) highest = fmaxf(highest, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
    highest = fmaxf(highest, shuffle_xor(highest, 1));
    highest = fmaxf(highest, shuffle_xor(highest, 2));
    const float before = running->maxima[i], now = fmaxf(before, highest);
    // Nothing seen so far: a difference of infinities is no number.
    const float base = now == minus_infinity() ? 0.0f : now;
    const float factor = fast_exp2(before - base);
    float total = 0.0f;
#pragma unroll
    for (int n = 0; n < kBlockKeys / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        scores[n][2 * i + j] = fast_exp2(scores[n][2 * i + j] - base);
        total += scores[n][2 * i + j];
      }
    }
    total += shuffle_xor(total, 1);
    total += shuffle_xor(total, 2);
    const float kept = before == minus_infinity() ? 0.0f : factor;
    running->totals[i] = running->totals[i] * kept + total;
    running->maxima[i] = now;
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      running->sums[d][2 * i] *= kept;
      running->sums[d][2 * i + 1] *= kept;
    }
  }
}

template <typename T, int kHeadDim>
__device__ inline void score_keys(const T* queries, const T* keys, int num_keys, int lane,
                                  float (&scores)[kBlockKeys / 8][4]) {
  constexpr int kStride = Sizes<kHeadDim>::kStride;
#pragma unroll
  for (int n = 0; n < kBlockKeys / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) scores[n][j] = 0.0f;
  }
#pragma unroll(kHeadDim > 128 ? 1 : kHeadDim / 16)
  for (int k = 0; k < kHeadDim; k += 16) {
    uint32_t a[4];
    load_matrices(a, queries + lane % 16 * kStride + k + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < kBlockKeys / 8; n += 2) {
      if (n * 8 >= num_keys) break;  // the others are masked
      uint32_t b[4];                 // of 16 keys
      load_matrices(b, keys + (n * 8 + lane / 16 * 8 + lane % 8) * kStride + k + lane / 8 % 2 * 8);
      mma(scores[n], a, {b[0], b[1]}, T{});
      mma(scores[n + 1], a, {b[2], b[3]}, T{});
    }
  }
}

template <typename T, int kHeadDim>
__device__ inline void add_values(const float (&weights)[kBlockKeys / 8][4], const T* values, int num_keys, int lane,
                                  Running<kHeadDim>* running) {
  constexpr int kStride = Sizes<kHeadDim>::kStride;
  uint32_t rounded[kBlockKeys / 16][4];  // all at once: half the registers
#pragma unroll
  for (int n = 0; n < kBlockKeys / 16; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float (&two)[4] = weights[2 * n + i / 2];
      rounded[n][i] = pack<T>(two[i % 2 * 2], two[i % 2 * 2 + 1]);
    }
  }
#pragma unroll
  for (int n = 0; n < kBlockKeys / 16; ++n) {
    if (n * 16 >= num_keys) break;  // their weights are zero
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; d += 2) {
      uint32_t b[4];
      load_matrices_transposed(b, values + (n * 16 + lane % 16) * kStride + d * 8 + lane / 16 * 8);
      mma(running->sums[d], rounded[n], {b[0], b[1]}, T{});
      mma(running->sums[d + 1], rounded[n], {b[2], b[3]}, T{});
    }
  }
}

// Divides by the totals and writes the tile's rows; for one split from the lanes' own numbers.
template <typename T, int kHeadDim>
__device__ inline void write_rows(const TreeAttention& attention, const Work& work, int first_query, int lane,
                                  const Running<kHeadDim>& running) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = first_query + lane / 4 + 8 * i;
    if (query >= work.num_queries) continue;
    auto* const out = static_cast<uint32_t*>(attention.out) + head_index(attention, work, query) * (kHeadDim / 2);
    const float share = 1.0f / running.totals[i];
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      out[d * 4 + lane % 4] = pack<T>(running.sums[d][2 * i] * share, running.sums[d][2 * i + 1] * share);
    }
  }
}

template <int kHeadDim>
__device__ inline void write_partials(float* partials, int first_query, int lane, const Running<kHeadDim>& running) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = first_query + lane / 4 + 8 * i;
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

// Puts a tile's splits together, in their order. A split of which a row sees nothing changes nothing.
template <typename T, int kHeadDim>
__device__ inline void merge_splits(const TreeAttention& attention, const Work& work) {
  constexpr int64_t kPartial = Sizes<kHeadDim>::kPartial;
  const int64_t step = kPartial * attention.num_kv_heads;
  const float* const first = attention.partials + work.tile->first_item * step + work.kv_head * kPartial;
  for (int i = static_cast<int>(threadIdx.x); i < work.num_queries * (kHeadDim / 2); i += kThreads) {
    const int query = i / (kHeadDim / 2), pair = i % (kHeadDim / 2);
    float highest = minus_infinity();
    for (int split = 0; split < work.tile->num_splits; ++split) {
      highest = fmaxf(highest, first[split * step + kTileQueries * kHeadDim + 2 * query]);
    }
    float total = 0.0f, sums[2] = {0.0f, 0.0f};
    for (int split = 0; split < work.tile->num_splits; ++split) {
      const float* const partial = first + split * step;
      const float factor = fast_exp2(partial[kTileQueries * kHeadDim + 2 * query] - highest);
      total += partial[kTileQueries * kHeadDim + 2 * query + 1] * factor;
      sums[0] += partial[query * kHeadDim + 2 * pair] * factor;
      sums[1] += partial[query * kHeadDim + 2 * pair + 1] * factor;
    }
    const float share = 1.0f / total;
    auto* const out = static_cast<uint32_t*>(attention.out) + head_index(attention, work, query) * (kHeadDim / 2);
    out[pair] = pack<T>(sums[0] * share, sums[1] * share);
  }
}

// Whether this block is the last of the tile's splits; all threads get the answer. Their writes are then seen.
__device__ inline bool is_last(const TreeAttention& attention, const Work& work, uint32_t* shared) {
  fence();
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* const arrived =
        attention.arrived + static_cast<int64_t>(work.item->tile) * attention.num_kv_heads + work.kv_head;
    const bool is_last = atomic_add(arrived, 1) + 1 == static_cast<uint32_t>(work.tile->num_splits);
    if (is_last) *arrived = 0;
    *shared = is_last ? 1 : 0;
  }
  __syncthreads();
  fence();
  const bool found = *shared != 0;
  __syncthreads();
  return found;
}

// Whether any row sees a key of the pass: a window may end before it.
__device__ inline bool is_seen(const TreeAttention& attention, const PlanPass& pass) {
  return attention.window == 0 || pass.first_position + pass.num_keys > pass.shortest - attention.window;
}

template <typename T, int kHeadDim>
__device__ inline void run_passes(const TreeAttention& attention, const Work& work, T* shared, int first_query,
                                  int lane, Running<kHeadDim>* running) {
  using S = Sizes<kHeadDim>;
  T* const stages = shared + S::kTileBytes / 2;
  const Queries queries = queries_of(attention, work, first_query, lane);
  const int num_passes = work.item->num_passes;
  load_queries<T, kHeadDim>(attention, work, shared);
#pragma unroll
  for (int stage = 0; stage < S::kStages - 1; ++stage) {
    if (stage < num_passes && is_seen(attention, work.passes[stage])) {
      load_pass<T, kHeadDim>(attention, work, stage, stages + stage * (S::kStageBytes / 2));
    }
    copy_async_commit();
  }
  for (int number = 0; number < num_passes; ++number) {
    const int ahead = number + S::kStages - 1;
    if (ahead < num_passes && is_seen(attention, work.passes[ahead])) {
      load_pass<T, kHeadDim>(attention, work, ahead, stages + ahead % S::kStages * (S::kStageBytes / 2));
    }
    copy_async_commit();
    copy_async_wait<S::kStages - 1>();
    __syncthreads();
    const PlanPass& pass = work.passes[number];
    const T* const keys = stages + number % S::kStages * (S::kStageBytes / 2);
    // Warps without queries only load.
    if (first_query < work.num_queries && is_seen(attention, pass)) {
      float scores[kBlockKeys / 8][4];
      score_keys<T, kHeadDim>(shared + first_query * S::kStride, keys, pass.num_keys, lane, scores);
      mask_scores(attention, pass, queries, lane, scores);
      soften<kHeadDim>(scores, running);
      add_values<T, kHeadDim>(scores, keys + kBlockKeys * S::kStride, pass.num_keys, lane, running);
    }
    __syncthreads();
  }
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kThreads) tree_attention_kernel(TreeAttention attention) {
  const PlanHeader header = *reinterpret_cast<const PlanHeader*>(attention.plan);
  T* const shared = reinterpret_cast<T*>(dynamic_shared());
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize,
            first_query = static_cast<int>(threadIdx.x) / kWarpSize * 16;
  for (int number = static_cast<int>(blockIdx.x); number < header.num_items * attention.num_kv_heads;
       number += static_cast<int>(gridDim.x)) {
    const Work work = work_of(attention, header, number);
    Running<kHeadDim> running{};
    running.maxima[0] = running.maxima[1] = minus_infinity();
    run_passes<T, kHeadDim>(attention, work, shared, first_query, lane, &running);
    if (work.tile->num_splits == 1) {
      write_rows<T, kHeadDim>(attention, work, first_query, lane, running);
      continue;
    }
    write_partials<kHeadDim>(attention.partials + static_cast<int64_t>(number) * Sizes<kHeadDim>::kPartial, first_query,
                             lane, running);
    if (is_last(attention, work, reinterpret_cast<uint32_t*>(shared))) merge_splits<T, kHeadDim>(attention, work);
  }
}

template <typename T>
void run(const TreeAttention& attention, int64_t head_dim, LaunchShape shape, Stream stream) {
  const auto with_size = [&](auto kernel, size_t shared_bytes) {
    shape.shared_bytes = shared_bytes;
    launch(kernel, shape, stream, attention);
  };
  switch (head_dim) {
    case 64:
      return with_size(tree_attention_kernel<T, 64>, Sizes<64>::kSharedBytes);
    case 80:
      return with_size(tree_attention_kernel<T, 80>, Sizes<80>::kSharedBytes);
    case 96:
      return with_size(tree_attention_kernel<T, 96>, Sizes<96>::kSharedBytes);
    case 128:
      return with_size(tree_attention_kernel<T, 128>, Sizes<128>::kSharedBytes);
    case 256:
      return with_size(tree_attention_kernel<T, 256>, Sizes<256>::kSharedBytes);
    default:
      throw std::invalid_argument("heads must be of size 64, 80, 96, 128 or 256");
  }
}

}  // namespace

int64_t attention_partials(int64_t head_dim) { return kTileQueries * (head_dim + 2); }

void tree_attention(const TreeAttention& attention, int64_t head_dim, DType dtype, int64_t num_blocks, Stream stream) {
  LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(num_blocks);
  shape.num_threads = kThreads;
  if (dtype == DType::kBFloat16) return run<BFloat16>(attention, head_dim, shape, stream);
  if (dtype == DType::kFloat16) return run<Float16>(attention, head_dim, shape, stream);
  throw std::invalid_argument("keys and values must be bfloat16 or float16");
}

}  // namespace specgrove::cuda
