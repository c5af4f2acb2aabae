// Rows of an embedding table, and of learned positions, as float32.
#pragma once

#include <cstdint>

#include "../cpu/number_types.h"
#include "launch.h"

namespace specgrove::cuda {

struct Embedding {
  const void* table;           // [vocab_size, size] in dtype
  const int32_t* token_ids;    // [num_rows]
  const void* position_table;  // [num_positions, size] in dtype, or null
  const int32_t* positions;    // [num_rows], or null with position_table
  float scale;
  int64_t num_rows, size;
  float* out;  // [num_rows, size]
};

// out = table[token_ids] * scale + position_table[positions]. Ids and positions must be in the tables.
void embed(const Embedding& embedding, DType dtype, Stream stream);

}  // namespace specgrove::cuda
