// The most probable tokens of rows of logits, with their log-probabilities.
#pragma once

#include <cstdint>

#include "launch.h"

namespace specgrove::cuda {

struct TopK {
  const float* logits;  // [num_rows, vocab_size]
  int64_t num_rows, vocab_size, k;
  float* log_probs;    // [num_rows, k]
  int32_t* token_ids;  // [num_rows, k]; -1 in rows of which no distribution can be made
};

// In falling order, ties to the lower id. k must be from 1 to vocab_size.
void top_k_log_probs(const TopK& top, Stream stream);

}  // namespace specgrove::cuda
