// The choice among the tokens that top-k, top-p and min-p leave of a row, where these are too many to be sorted.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "logit_scan.h"
#include "sampling.h"

namespace specgrove {

// The best of what is offered, ties to the lower id.
struct Choice {
  float best = -std::numeric_limits<float>::infinity();
  int64_t token_id = -1;

  void offer(float value, int64_t id) {
    if (value > best || (value == best && id < token_id)) {
      best = value;
      token_id = id;
    }
  }
};

// A row's scaled logits, and what top-k, top-p and min-p ask of it.
struct SampledRow {
  const float* logits;  // [vocab_size]
  int64_t vocab_size;
  const ChoiceParams& params;
  float maximum;
  double total = sum_exp(logits, vocab_size, maximum);
  bool is_top_k = params.top_k > 0 && params.top_k < vocab_size;
  bool is_top_p = params.top_p < 1.0f;
};

struct Floor {
  float logit;
  int64_t num_reaching;
};

// Of the logits that can be kept the lowest, or one below that. What is 2^-20 times as probable as the best, or less,
// is looked at only when the rest doesn't reach top-k or top-p.
Floor floor_of(const SampledRow& row);

// The choice among many tokens, which are not sorted for it: the winner of all, if it is kept. If not, nothing below it
// is kept, and the winner of those above it is next. A round leaves half of them on average. None where IsKept has
// none.
std::optional<int64_t> choose_of_many(const SampledRow& row, float floor, uint64_t position);

}  // namespace specgrove
