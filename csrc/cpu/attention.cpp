#include "attention.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "isa.h"
#include "scratch.h"
#include "thread_pool.h"

namespace specgrove {
namespace {

constexpr int64_t kMaxTileRows = 32;
constexpr int64_t kMaxTileQueries = 96;
constexpr int64_t kMinTileHeads = 8;  // fewer queries than that are not worth loading a chunk for
constexpr int64_t kTasksPerThread = 3;
constexpr int64_t kMaxPartialFloats = 1 << 20;  // 4 MiB; whole tiles need none

void check(bool holds, const char* text) {
  if (!holds) throw std::invalid_argument(text);
}

void check_offsets(const int32_t* offsets, int64_t num_seqs, int64_t total, const char* text) {
  check(offsets[0] == 0 && offsets[num_seqs] == total, text);
  for (int64_t i = 0; i < num_seqs; ++i) check(offsets[i] <= offsets[i + 1], text);
}

int64_t slots_needed(const int32_t* slots, int64_t count) {
  int32_t largest = -1, smallest = 0;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, slots[i]);
    smallest = std::min(smallest, slots[i]);
  }
  check(smallest >= 0, "slots must not be negative");
  return int64_t{largest} + 1;
}

int64_t num_bits(const uint64_t* words, int64_t count) {
  int64_t num_set = 0;
  for (int64_t i = 0; i < count; ++i) num_set += __builtin_popcountll(words[i]);
  return num_set;
}

AttentionKernels kernels_for(DType dtype) {
  if (dtype == DType::kBFloat16) {
    if (current_isa() == Isa::kAmx) return attention_pairs_amx();
    if (current_isa() == Isa::kAmxTwin) return attention_pairs_amx_twin();
    if (current_isa() == Isa::kAvx512) return attention_pairs_avx512();
  }
  switch (vector_isa()) {
    case Isa::kAvx512:
      return attention_avx512(dtype);
    case Isa::kAvx2:
      return attention_avx2(dtype);
    default:
      return attention_plain(dtype);
  }
}

// The segments that any of the rows sees keys of.
struct Segments {
  int64_t first, count;
};
Segments segments_of(const std::vector<AttentionRow>& rows, int64_t window) {
  int64_t earliest = std::numeric_limits<int64_t>::max(), longest = 0;
  for (const AttentionRow& row : rows) {
    earliest = std::min(earliest, std::max<int64_t>(0, row.num_keys() - window));
    longest = std::max(longest, row.num_keys());
  }
  if (rows.empty()) return {0, 1};
  const int64_t first = earliest / kSegmentKeys;
  return {first, (longest + kSegmentKeys - 1) / kSegmentKeys - first};
}

}  // namespace

AttentionPlan::AttentionPlan(const Arrays& a) {
  check_offsets(a.context_offsets, a.num_seqs, a.num_context_slots, "context_offsets don't fit context_slots");
  check_offsets(a.tree_offsets, a.num_seqs, a.num_tree_slots, "tree_offsets don't fit tree_slots");
  num_slots_ =
      std::max(slots_needed(a.context_slots, a.num_context_slots), slots_needed(a.tree_slots, a.num_tree_slots));
  rows_.reserve(a.num_rows);
  paths_.reserve(num_bits(a.row_masks, a.num_rows * a.num_mask_words));
  for (int64_t row = 0; row < a.num_rows; ++row) {
    const int32_t seq = a.row_seq[row];
    check(seq >= 0 && seq < a.num_seqs, "row_seq names a sequence that is not there");
    const int64_t context_len = a.row_context_len[row];
    const int64_t num_nodes = a.tree_offsets[seq + 1] - a.tree_offsets[seq];
    check(context_len >= 0 && context_len <= a.context_offsets[seq + 1] - a.context_offsets[seq],
          "row_context_len is longer than the sequence's context");
    const size_t num_before = paths_.size();
    for (int64_t word = 0; word < a.num_mask_words; ++word) {
      for (uint64_t bits = a.row_masks[row * a.num_mask_words + word]; bits != 0; bits &= bits - 1) {
        const int64_t node = word * 64 + __builtin_ctzll(bits);
        check(node < num_nodes, "row_masks name a node that is not in the sequence's tree");
        paths_.push_back(a.tree_slots[a.tree_offsets[seq] + node]);
      }
    }
    const int64_t path_len = static_cast<int64_t>(paths_.size() - num_before);
    check(context_len + path_len > 0, "a row must see at least one key");
    rows_.push_back({a.context_slots + a.context_offsets[seq], context_len, paths_.data() + num_before, path_len, seq});
  }
}

void AttentionPlan::select(const AttentionPlan& plan, const int64_t* rows, int64_t num_rows) {
  rows_.clear();
  for (int64_t i = 0; i < num_rows; ++i) rows_.push_back(plan.rows_[rows[i]]);
  num_slots_ = plan.num_slots_;
}

void check_slots(const AttentionPlan& plan, int64_t num_slots) {
  check(plan.num_slots() <= num_slots, "the pass names a slot that the cache doesn't have");
}

void tree_attention(const float* queries, const KvCache& cache, const AttentionPlan& plan, int64_t num_heads,
                    float scale, float soft_cap, const float* alibi_slopes, int64_t window, float* out) {
  check_slots(plan, cache.num_slots);
  const std::vector<AttentionRow>& rows = plan.rows();
  const int64_t num_rows = static_cast<int64_t>(rows.size()), dim = cache.head_dim;
  const int64_t group_size = num_heads / cache.num_kv_heads;
  // Large tiles load context once for many rows and heads, but all threads need work. Tiles change no bit.
  const int64_t num_threads = ThreadPool::instance().num_threads(), num_wanted = kTasksPerThread * num_threads;
  const int64_t most = std::max<int64_t>(1, std::min(kMaxTileRows, kMaxTileQueries / group_size));
  Segments segments = segments_of(rows, window);
  const int64_t query_floats = partial_floats(dim), segment_stride = num_rows * num_heads * query_floats;
  if (num_threads == 1 || segments.count * segment_stride > kMaxPartialFloats) segments = {0, 1};
  const int64_t tile_rows = std::clamp<int64_t>(num_rows * cache.num_kv_heads * segments.count / num_wanted, 1, most);
  thread_local std::vector<int64_t> thread_starts;
  std::vector<int64_t>& starts = thread_starts;  // the caller's, in all threads
  starts.clear();
  for (int64_t row = 0, end = 0; row < num_rows; row = end) {
    while (end < num_rows && rows[end].sequence == rows[row].sequence) ++end;
    const int64_t num_tiles = (end - row + tile_rows - 1) / tile_rows;  // of nearly the same size
    for (int64_t tile = 0; tile < num_tiles; ++tile) starts.push_back(row + tile * (end - row) / num_tiles);
  }
  const int64_t num_row_tiles = static_cast<int64_t>(starts.size()), num_whole = num_row_tiles * cache.num_kv_heads;
  starts.push_back(num_rows);
  // Where rows and KV heads don't give all threads work, segments of keys are shared out too, and else a group's heads:
  // then each part loads the keys.
  const bool is_short = num_threads > 1 && num_whole > 0 && num_whole < num_wanted;
  const int64_t num_segments = is_short ? segments.count : 1;
  const bool has_partials = num_segments > 1;
  const int64_t num_tasks_each = !is_short || has_partials ? 1 : (2 * num_threads + num_whole - 1) / num_whole;
  const int64_t num_parts = std::clamp<int64_t>(num_tasks_each, 1, std::max<int64_t>(1, group_size / kMinTileHeads));
  thread_local Scratch<float> partials;
  float* const all_partials = partials.room(has_partials ? num_segments * segment_stride : 0);
  const AttentionKernels run = kernels_for(cache.dtype);
  ThreadPool::instance().run(num_whole * num_parts * num_segments, [&](int64_t each) {
    const int64_t segment = each % num_segments, task = each / num_segments;
    const int64_t part = task % num_parts, tile_index = task / num_parts % num_row_tiles;
    const int64_t kv_head = task / num_parts / num_row_tiles;  // last, so that its keys are read while they are cached
    const int64_t* start = starts.data() + tile_index;
    const int64_t first_head = kv_head * group_size + part * group_size / num_parts;
    const int64_t end_head = kv_head * group_size + (part + 1) * group_size / num_parts;
    thread_local Scratch<float> scratch;
    AttentionTile tile{};
    tile.rows = rows.data() + start[0];
    tile.num_rows = start[1] - start[0];
    tile.num_heads = end_head - first_head;
    const int64_t place = (start[0] * num_heads + first_head) * dim,
                  cache_offset = kv_head * dim * size_of(cache.dtype);
    tile.queries = queries + place;
    tile.out = out + place;
    tile.row_stride = num_heads * dim;
    tile.k_cache = static_cast<const char*>(cache.keys) + cache_offset;
    tile.v_cache = static_cast<const char*>(cache.values) + cache_offset;
    tile.slot_stride = cache.num_kv_heads * dim;
    tile.head_dim = dim;
    tile.window = window;
    tile.scale = scale;
    tile.soft_cap = soft_cap;
    tile.alibi_slopes = alibi_slopes == nullptr ? nullptr : alibi_slopes + first_head;
    tile.scratch = scratch.room(run.scratch_floats(tile.num_rows, tile.num_heads, dim));
    tile.begin = has_partials ? (segments.first + segment) * kSegmentKeys : 0;
    tile.end = has_partials ? tile.begin + kSegmentKeys : std::numeric_limits<int64_t>::max();
    if (has_partials) {
      tile.partials = all_partials + segment * segment_stride + (start[0] * num_heads + first_head) * query_floats;
      tile.partial_row_stride = num_heads * query_floats;
    }
    run.tile(tile);
  });
  if (!has_partials) return;
  ThreadPool::instance().run(num_rows, [&](int64_t row) {
    thread_local Scratch<float> scratch;
    float* const merged = scratch.room(query_floats);
    for (int64_t query = row * num_heads; query < (row + 1) * num_heads; ++query) {
      run.merge({all_partials + query * query_floats, segment_stride, num_segments, dim, merged, out + query * dim});
    }
  });
}

int64_t partial_floats(int64_t head_dim) { return (head_dim + 15) / 16 * 16 + 2; }

}  // namespace specgrove
