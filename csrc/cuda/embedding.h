// Rows of an embedding table, and of learned positions, as float32.
#pragma once

#include <cstdint>

#include "../cpu/number_types.h"
#include "launch.h"

namespace specgrove::cuda {

struct Embedding {
  const void* table;         // [num_ids, size] in dtype: of the ids from first_id on
  const int32_t* token_ids;  // [num_rows]
  int64_t first_id, num_ids;
  const void* position_table;  // [num_positions, size] in dtype, or null
  const int32_t* positions;    // [num_rows], or null with position_table
  float scale;
  int64_t num_rows, size;
  float* out;  // [num_rows, size]
};

// out = table[token_ids - first_id] * scale + position_table[positions], with zeros for ids that the table doesn't
// have. Positions must be in their table.
void embed(const Embedding& embedding, DType dtype, Stream stream);

}  // namespace specgrove::cuda
