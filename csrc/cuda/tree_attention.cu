// A block takes items (a tile's share of a split or span, for one KV head) one after the other. Its warps load keys and
// values together, one or two passes ahead, and each computes 16 of the tile's queries: scores by tensor cores, a
// running softmax over a split's passes, values by tensor cores. A row that a pass is not for is left as it is, bit for
// bit: its factor is one and its weights are zero. Splits of an item are put together by the lanes that have computed
// them, in memory that stays in the cache. Items leave partial results; the last block of a tile to arrive puts them
// together.
#include <stdexcept>

#include "attention_partials.cuh"

namespace specgrove::cuda {
namespace {

__device__ inline int split_of(const PlanPass& pass) { return pass.first_position / (kBlockKeys * kSplitBlocks); }

// Whether any row sees a key of the pass: a window may end before it.
__device__ inline bool is_seen(const TreeAttention& attention, const PlanPass& pass) {
  return attention.window == 0 || pass.first_position + pass.num_keys > pass.shortest - attention.window;
}

template <int kHeadDim>
__device__ inline void begin_split(Running<kHeadDim>* running) {
  *running = {};
  running->maxima[0] = running->maxima[1] = minus_infinity();
}

// Puts the item's earlier splits before that of a pass, where there are some.
template <int kHeadDim>
__device__ inline void end_split(const Work& work, int last_pass, const float* partials, int first_query, int lane,
                                 Running<kHeadDim>* running) {
  if (split_of(work.passes[last_pass]) == work.item->first_split) return;
  join_partials<kHeadDim>(partials, work, first_query, lane, running);
}

// Leaves what the item's last split has, with those before it. partials are the item's.
template <typename T, int kHeadDim>
__device__ inline void run_passes(const TreeAttention& attention, const Work& work, T* shared, float* partials,
                                  int first_query, int lane, Running<kHeadDim>* running) {
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
  begin_split(running);
  for (int number = 0; number < num_passes; ++number) {
    const int ahead = number + S::kStages - 1;
    if (ahead < num_passes && is_seen(attention, work.passes[ahead])) {
      load_pass<T, kHeadDim>(attention, work, ahead, stages + ahead % S::kStages * (S::kStageBytes / 2));
    }
    copy_async_commit();
    copy_async_wait<S::kStages - 1>();
    __syncthreads();
    const PlanPass& pass = work.passes[number];
    if (number > 0 && split_of(pass) != split_of(work.passes[number - 1])) {
      end_split<kHeadDim>(work, number - 1, partials, first_query, lane, running);
      write_partials<kHeadDim>(partials, work, first_query, lane, *running);
      begin_split(running);
    }
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
  end_split<kHeadDim>(work, num_passes - 1, partials, first_query, lane, running);
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(kAttentionThreads) tree_attention_kernel(TreeAttention attention) {
  const PlanHeader header = *reinterpret_cast<const PlanHeader*>(attention.plan);
  T* const shared = reinterpret_cast<T*>(dynamic_shared());
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize,
            first_query = static_cast<int>(threadIdx.x) / kWarpSize * 16;
  for (int number = static_cast<int>(blockIdx.x); number < header.num_items * attention.num_kv_heads;
       number += static_cast<int>(gridDim.x)) {
    const Work work = work_of(attention, header, number);
    float* const partials = attention.partials + static_cast<int64_t>(number) * Sizes<kHeadDim>::kPartial;
    Running<kHeadDim> running;
    run_passes<T, kHeadDim>(attention, work, shared, partials, first_query, lane, &running);
    const int num_items = (work.tile->num_splits + work.splits_per_item - 1) / work.splits_per_item;
    if (num_items == 1) {
      write_rows<T, kHeadDim>(attention, work, first_query, lane, running);
      continue;
    }
    write_partials<kHeadDim>(partials, work, first_query, lane, running);
    if (is_last(attention, work, num_items, reinterpret_cast<uint32_t*>(shared))) {
      merge_items<T, kHeadDim>(attention, work, num_items);
    }
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
  shape.num_threads = kAttentionThreads;
  if (dtype == DType::kBFloat16) return run<BFloat16>(attention, head_dim, shape, stream);
  if (dtype == DType::kFloat16) return run<Float16>(attention, head_dim, shape, stream);
  throw std::invalid_argument("keys and values must be bfloat16 or float16");
}

}  // namespace specgrove::cuda
