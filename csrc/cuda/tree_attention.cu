// A block takes items (a tile's share of a split or span, for one KV head) one after the other. Its warps load keys and
// values together, up to two passes ahead, and each computes 16 of the tile's queries: scores by tensor cores, a
// running softmax over a split's passes, values by tensor cores. A row that a pass is not for is left as it is, bit for
// bit: its factor is one and its weights are zero. Splits of an item are put together by the lanes that have computed
// them, in memory that stays in the cache. Items leave partial results; whoever is the last of kSpanSplits neighbours
// to arrive puts theirs together.
//
// A pass of few queries runs in blocks of four warps, of which a processor takes two: one loads while the other
// computes. What a warp computes is the same in both, and with any number of stages.
#include <algorithm>
#include <stdexcept>
#include <string>

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

// Writes the rows of a tile that has no other items; else partials, which are the item's. Stages of shared memory are a
// ring: while a pass is worked on, those after it are loaded into all others. With one stage there are none.
template <typename T, int kHeadDim, int kWarps>
__device__ inline void run_passes(const TreeAttention& attention, const Work& work, T* shared, float* partials,
                                  int first_query, int lane) {
  using S = Sizes<kHeadDim>;
  constexpr int kStage = S::kStageBytes / 2;
  const T* const own = shared + first_query * S::kStride;
  T* const stages = shared + kWarps * S::kWarpBytes / 2;
  const Queries queries = queries_of(attention, work, first_query, lane);
  const int num_passes = work.item->num_passes, num_ahead = attention.num_stages - 1;
  const auto load = [&](int number, int stage) {
    if (number < num_passes && is_seen(attention, work.passes[number])) {
      load_pass<T, kHeadDim, kWarps>(attention, work, number, stages + stage * kStage);
    }
    copy_async_commit();
  };
  __syncthreads();  // all have done with the item before
  load_queries<T, kHeadDim, kWarps>(attention, work, shared);
  for (int number = 0; number < num_ahead; ++number) load(number, number);
  Running<kHeadDim> running;
  begin_split(&running);
  int stage = 0;
  for (int number = 0; number < num_passes; ++number) {
    if (num_ahead > 1) {
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();  // the pass is there, and all have done with the one before, whose stage is the next to load into
    load(number + num_ahead, stage == 0 ? num_ahead : stage - 1);
    if (num_ahead == 0) {
      copy_async_wait<0>();
      __syncthreads();
    }
    const PlanPass& pass = work.passes[number];
    // Warps without queries only load.
    if (first_query < work.num_queries && is_seen(attention, pass)) {
      const T* const keys = stages + stage * kStage;
      // Both take more registers than there are for larger heads.
      if (kHeadDim <= 128 && pass.num_keys == kBlockKeys) {
        take_pass<T, kHeadDim, true>(attention, pass, queries, own, keys, lane, &running);
      } else {
        take_pass<T, kHeadDim, false>(attention, pass, queries, own, keys, lane, &running);
      }
    }
    stage = stage == num_ahead ? 0 : stage + 1;
    const int split = split_of(pass);
    const bool is_last = number + 1 == num_passes;
    if (!is_last && split_of(work.passes[number + 1]) == split) continue;
    // A split ends; those before it have left partials. In this one place, for a second costs registers.
    if (split != work.item->first_split) join_partials<kHeadDim>(partials, work, first_query, lane, &running);
    if (is_last && work.num_items == 1) {
      write_rows<T, kHeadDim>(attention, work, first_query, lane, running);
      return;
    }
    write_partials<kHeadDim>(partials, work, first_query, lane, running);
    if (is_last) return;
    begin_split(&running);
  }
}

// Bounds: threads, and blocks that a processor takes side by side.
template <typename T, int kHeadDim, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarpSize, kManyWarps / kWarps)
    tree_attention_kernel(TreeAttention attention) {
  const auto header = *reinterpret_cast<const PlanHeader*>(attention.plan);
  T* const shared = reinterpret_cast<T*>(dynamic_shared());
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize,
            first_query = static_cast<int>(threadIdx.x) / kWarpSize * kWarpQueries;
  for (int number = static_cast<int>(blockIdx.x); number < header.num_items * attention.num_kv_heads;
       number += static_cast<int>(gridDim.x)) {
    const Work work = work_of(attention, header, number);
    float* const partials = attention.partials + static_cast<int64_t>(number) * Sizes<kHeadDim>::kPartial;
    run_passes<T, kHeadDim, kWarps>(attention, work, shared, partials, first_query, lane);
    if (work.num_items > 1)
      merge_upwards<T, kHeadDim, kWarps>(attention, header, number, reinterpret_cast<uint32_t*>(shared));
  }
}

constexpr int kMaxStages = 3;
constexpr int64_t kReservedBytes = 1024;  // of each block, beside what it asks for

// As many stages as fit; none: 0.
template <int kHeadDim>
int num_stages_in(int64_t num_bytes, int num_warps) {
  const int64_t num_stages = (num_bytes - num_warps * Sizes<kHeadDim>::kWarpBytes) / Sizes<kHeadDim>::kStageBytes;
  return static_cast<int>(std::clamp<int64_t>(num_stages, 0, kMaxStages));
}

template <typename T, int kHeadDim>
void run_sized(TreeAttention attention, const AttentionLaunch& where, Stream stream) {
  using S = Sizes<kHeadDim>;
  attention.num_stages = num_stages_in<kHeadDim>(where.max_shared_bytes, kManyWarps);
  // Also where a pass of few rows would fit: what a card takes must not depend on that.
  if (attention.num_stages == 0) {
    throw std::runtime_error("attention over heads of size " + std::to_string(kHeadDim) + " needs " +
                             std::to_string(kManyWarps * S::kWarpBytes + S::kStageBytes) +
                             " bytes of shared memory a block, this device has " +
                             std::to_string(where.max_shared_bytes));
  }
  LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(where.num_blocks);
  const bool has_few = where.num_rows * (attention.num_heads / attention.num_kv_heads) <= kFewWarps * kWarpQueries;
  const int num_warps = has_few ? kFewWarps : kManyWarps;
  shape.num_threads = static_cast<unsigned>(num_warps * kWarpSize);
  if (has_few) {
    // Two blocks side by side, if that leaves them a stage each.
    const int64_t half = (where.max_shared_bytes + kReservedBytes) / 2 - kReservedBytes;
    const int num_stages = num_stages_in<kHeadDim>(half, num_warps);
    attention.num_stages = num_stages > 0 ? num_stages : num_stages_in<kHeadDim>(where.max_shared_bytes, num_warps);
  }
  shape.shared_bytes = static_cast<size_t>(num_warps * S::kWarpBytes + attention.num_stages * S::kStageBytes);
  launch(has_few ? tree_attention_kernel<T, kHeadDim, kFewWarps> : tree_attention_kernel<T, kHeadDim, kManyWarps>,
         shape, stream, attention);
}

template <typename T>
void run(const TreeAttention& attention, int64_t head_dim, const AttentionLaunch& where, Stream stream) {
  switch (head_dim) {
    case 64:
      return run_sized<T, 64>(attention, where, stream);
    case 80:
      return run_sized<T, 80>(attention, where, stream);
    case 96:
      return run_sized<T, 96>(attention, where, stream);
    case 128:
      return run_sized<T, 128>(attention, where, stream);
    case 256:
      return run_sized<T, 256>(attention, where, stream);
    default:
      throw std::invalid_argument("heads must be of size 64, 80, 96, 128 or 256");
  }
}

}  // namespace

int64_t attention_partials(int64_t head_dim) { return kTileQueries * (head_dim + 2); }

int64_t max_shared_bytes([[maybe_unused]] int device) {
#ifdef SPECGROVE_EMULATED
  return 227 * 1024;
#else
  int num_bytes = 0;
  check(cudaDeviceGetAttribute(&num_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "a block's shared memory");
  return num_bytes;
#endif
}

void tree_attention(const TreeAttention& attention, int64_t head_dim, DType dtype, const AttentionLaunch& where,
                    Stream stream) {
  if (dtype == DType::kBFloat16) return run<BFloat16>(attention, head_dim, where, stream);
  if (dtype == DType::kFloat16) return run<Float16>(attention, head_dim, where, stream);
  throw std::invalid_argument("keys and values must be bfloat16 or float16");
}

}  // namespace specgrove::cuda
