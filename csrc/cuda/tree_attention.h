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
  uint32_t* arrived;          // one for each tile and KV head; zeros, and zeros again afterwards
  const float* alibi_slopes;  // [num_heads] or null
  float scale;
  int32_t window;  // keys that a row sees at most; 0: all
  int32_t num_heads, num_kv_heads;
};

// float32 numbers of one item's partial result for one KV head.
int64_t attention_partials(int64_t head_dim);

// Head sizes 64, 80, 96, 128 and 256; dtype bfloat16 or float16. Throws std::invalid_argument for others. The plan is
// read on the device, so that the launch can be captured; num_blocks blocks share out its items.
void tree_attention(const TreeAttention& attention, int64_t head_dim, DType dtype, int64_t num_blocks, Stream stream);

}  // namespace specgrove::cuda
