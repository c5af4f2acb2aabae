// Tree attention over one-token KV slots: a row sees the first positions of its sequence's context, then its ancestors.
//
// A row's keys form one list by position, wherever they come from, and are reduced in chunks of kKeyChunk positions
// with an online softmax; kSegmentKeys positions make a segment with a softmax of its own, and segments are put
// together in order, so that they may be computed side by side. So a row's bits are those of the same tokens as a plain
// sequence, whatever rows share its tile, and whoever computes its segments. A window leaves out whole chunks before it
// and masks its first one: chunks and segments begin at the same positions with it.
#pragma once

#include <cstdint>
#include <vector>

#include "number_types.h"

namespace specgrove {

constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kKeyChunk = 32;
constexpr int64_t kSegmentKeys = 256;  // whole chunks

struct AttentionRow {
  const int32_t* context;  // slots of the sequence's context, by position
  int64_t context_len;     // how many of them the row sees
  const int32_t* path;     // slots of the ancestors and the row itself, by depth
  int64_t path_len;
  int32_t sequence;

  int64_t num_keys() const { return context_len + path_len; }
};

// Which keys each row of a pass sees: made and checked once per pass, used by all layers.
class AttentionPlan {
 public:
  struct Arrays {
    const int32_t* context_slots;  // all sequences' contexts, one after another
    int64_t num_context_slots;
    const int32_t* context_offsets;  // [num_seqs + 1]
    const int32_t* tree_slots;       // all sequences' tree nodes
    int64_t num_tree_slots;
    const int32_t* tree_offsets;  // [num_seqs + 1]
    int64_t num_seqs;
    const int32_t* row_seq;          // [num_rows]
    const int32_t* row_context_len;  // [num_rows]
    const uint64_t* row_masks;       // [num_rows, num_mask_words], bit j: node j of the row's sequence is seen
    int64_t num_rows, num_mask_words;
  };

  AttentionPlan() = default;  // of no rows
  // Keeps the address of context_slots. Throws std::invalid_argument that says what doesn't fit together.
  explicit AttentionPlan(const Arrays& arrays);

  // Becomes the plan of some rows of another one, which must stay as it is; allocates nothing it has had before.
  void select(const AttentionPlan& plan, const int64_t* rows, int64_t num_rows);

  const std::vector<AttentionRow>& rows() const { return rows_; }
  int64_t num_slots() const { return num_slots_; }  // what a cache must have: one more than the largest slot

 private:
  std::vector<AttentionRow> rows_;
  std::vector<int32_t> paths_;
  int64_t num_slots_ = 0;
};

struct KvCache {
  const void* keys;  // [num_slots, num_kv_heads, head_dim]
  const void* values;
  DType dtype;
  int64_t num_slots, num_kv_heads, head_dim;
};

// Throws std::invalid_argument unless a cache of num_slots has all slots that the plan names.
void check_slots(const AttentionPlan& plan, int64_t num_slots);

// queries and out are [rows, num_heads, head_dim]; alibi_slopes is [num_heads] or null. Scaled scores become
// soft_cap * tanh(score / soft_cap) before slopes; with 0 they stay. A row sees its last `window` keys, at least 1.
void tree_attention(const float* queries, const KvCache& cache, const AttentionPlan& plan, int64_t num_heads,
                    float scale, float soft_cap, const float* alibi_slopes, int64_t window, float* out);

// Some rows of one sequence and some heads of one KV head: they share the chunks of context that are loaded.
struct AttentionTile {
  const AttentionRow* rows;
  int64_t num_rows;
  const float* queries;  // of the first row, [num_heads, head_dim]; rows are row_stride apart, in out too
  float* out;
  int64_t row_stride;
  const void* k_cache;  // at the KV head; slots are slot_stride elements apart
  const void* v_cache;
  int64_t slot_stride, num_heads, head_dim, window;
  float scale, soft_cap;
  const float* alibi_slopes;  // [num_heads] or null
  float* scratch;             // scratch_floats() of the kernels, from a cache line's begin
  int64_t begin, end;         // positions of keys, at whole segments; end may be behind the last
  // Null where all segments are the tile's, and `out` gets the result. Else what the tile's keys give goes here:
  // partial_floats() a head, those of the first row first; rows are partial_row_stride apart.
  float* partials;
  int64_t partial_row_stride;
};
// What is known of a query after some segments: sums of values, padded, then maximum and total of its weights.
int64_t partial_floats(int64_t head_dim);

// Puts the partial results of one query for all segments together, in order; they are segment_stride apart.
struct AttentionMerge {
  const float* partials;
  int64_t segment_stride, num_segments, head_dim;
  float* merged;  // partial_floats() of room
  float* out;     // [head_dim]
};

// What one instruction set has for caches of one type.
struct AttentionKernels {
  void (*tile)(const AttentionTile& tile);
  void (*merge)(const AttentionMerge& merge);
  int64_t (*scratch_floats)(int64_t num_rows, int64_t num_heads, int64_t head_dim);
};
AttentionKernels attention_plain(DType dtype);
AttentionKernels attention_avx2(DType dtype);
AttentionKernels attention_avx512(DType dtype);  // but bfloat16
AttentionKernels attention_pairs_avx512();       // bfloat16; so are these
AttentionKernels attention_pairs_amx();
AttentionKernels attention_pairs_amx_twin();

}  // namespace specgrove
