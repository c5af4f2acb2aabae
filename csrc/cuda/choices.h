// From rows of logits to tokens, by the rule and with the noise of the CPU: the same choices.
#pragma once

#include <cstdint>

#include "launch.h"

namespace specgrove::cuda {

constexpr int64_t kNotANumber = -2, kAllBanned = -3;  // as in ../cpu/row_choices.h

struct Choices {
  const float* logits;        // [num_rows, vocab_size]
  const float* temperatures;  // [num_rows]; 0: the largest logit
  const uint64_t* seeds;      // [num_rows]
  const uint64_t* positions;  // [num_rows]
  int64_t num_rows, vocab_size;
  int64_t* out;  // [num_rows]: a token id, kNotANumber or kAllBanned
};

void choose(const Choices& choices, Stream stream);

// Token ids below 0 stand for choices: -1 for choices[0], and so on. In place; a choice that is no token becomes id 0.
void take_choices(int32_t* token_ids, int64_t num_rows, const int64_t* choices, Stream stream);

}  // namespace specgrove::cuda
