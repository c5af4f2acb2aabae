// From the QKV linear's output to queries, and to keys and values in their slots.
#pragma once

#include <cstdint>

#include "../cpu/number_types.h"
#include "launch.h"

namespace specgrove::cuda {

struct RotateAndStore {
  const float* qkv;          // [num_rows, num_heads + 2 num_kv_heads, head_dim]
  const int32_t* positions;  // [num_rows]
  const float* cos_sin;      // [max_positions, head_dim]: cosines, then sines; or null: nothing is rotated
  const int32_t* slots;      // [num_rows]; below 0: a row that only fills the pass, and whose keys go nowhere
  void* k_cache;             // [num_slots, num_kv_heads, head_dim] in dtype
  void* v_cache;
  void* queries;  // [num_rows, num_heads, head_dim] in dtype
  int64_t num_rows;
  int32_t num_heads, num_kv_heads, head_dim;
};

void rotate_and_store(const RotateAndStore& rotation, DType dtype, Stream stream);

}  // namespace specgrove::cuda
