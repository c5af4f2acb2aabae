// Tree attention over one-token KV slots: a row sees the first positions of its sequence's context, then its ancestors.
//
// A row's keys form one list by position, wherever they come from, and are reduced in chunks of kKeyChunk positions
// with an online softmax. So a row's bits are those of the same tokens as a plain sequence.
#pragma once

#include <cstdint>

#include "number_types.h"

namespace specgrove {

constexpr int64_t kKeyChunk = 32;
constexpr int64_t kMaxHeadDim = 256;

struct TreeAttention {
  const float* queries;  // [rows, num_heads, head_dim]
  const void* k_cache;   // [num_slots, num_kv_heads, head_dim]
  const void* v_cache;
  DType dtype;                     // of the caches
  const int32_t* context_slots;    // all sequences' contexts, one after another
  const int32_t* context_offsets;  // [num_seqs + 1]
  const int32_t* tree_slots;       // all sequences' tree nodes
  const int32_t* tree_offsets;     // [num_seqs + 1]
  const int32_t* row_seq;          // [rows]
  const int32_t* row_context_len;  // [rows]
  const uint64_t* row_masks;  // [rows, num_mask_words], bit j: node j of the row's sequence is the row or an ancestor
  int64_t num_rows, num_heads, num_kv_heads, head_dim, num_mask_words;
  float scale;
  const float* alibi_slopes;  // [num_heads] or null
  float* out;                 // [rows, num_heads, head_dim]
};

void tree_attention(const TreeAttention& call);

// One row and one KV head: the heads of its group over `num_keys` slots. Works on float32 copies of no more than a
// chunk.
struct AttentionTask {
  const float* queries;  // [group_size, head_dim]
  const void* k_cache;   // at the KV head; slots are slot_stride elements apart
  const void* v_cache;
  DType dtype;
  int64_t slot_stride;
  const int32_t* slots;  // [num_keys]
  int64_t num_keys, group_size, head_dim;
  float scale;
  const float* alibi_slopes;  // [group_size] or null
  float* out;                 // [group_size, head_dim]
};
void attention_task_plain(const AttentionTask& task);
void attention_task_avx512(const AttentionTask& task);

}  // namespace specgrove
