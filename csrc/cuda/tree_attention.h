// Attention of all rows of a forward pass over one-token KV slots, in one launch.
#pragma once

#include <cstdint>

#include "../cpu/number_types.h"
#include "launch.h"

namespace specgrove::cuda {

struct TreeAttention {
  const void* queries;  // [num_rows, num_heads, head_dim] in dtype
  const void* k_cache;  // [num_slots, num_kv_heads, head_dim] in dtype
  const void* v_cache;
  void* out;                  // [num_rows, num_heads, head_dim] in dtype
  const int32_t* plan;        // of attention_plan.h, on the device
  float* partials;            // attention_partials() for each item and KV head
  uint32_t* arrived;          // one for each item that leaves partials, and KV head; zeros, also afterwards
  const float* alibi_slopes;  // [num_heads] or null
  float scale;
  float soft_cap;  // scaled scores become soft_cap * tanh(score / soft_cap), before slopes; 0: they stay
  int32_t window;  // keys that a row sees at most; 0: all
  int32_t num_heads, num_kv_heads;
  int32_t num_stages = 0;  // filled in by tree_attention()
};

struct AttentionLaunch {
  int64_t num_blocks;        // they share out the plan's items
  int64_t num_rows;          // of queries: the plan has no more
  int64_t max_shared_bytes;  // of a block
};

// float32 numbers of one item's partial result for one KV head.
int64_t attention_partials(int64_t head_dim);

// What a block of a device may ask for.
int64_t max_shared_bytes(int device);

// Head sizes 64, 80, 96, 128 and 256; dtype bfloat16 or float16. Throws std::invalid_argument for others, and
// std::runtime_error where a block's shared memory is too small. The plan is read on the device, so that the launch can
// be captured: its shape depends on AttentionLaunch only.
void tree_attention(const TreeAttention& attention, int64_t head_dim, DType dtype, const AttentionLaunch& where,
                    Stream stream);

}  // namespace specgrove::cuda
