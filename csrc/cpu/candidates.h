// Which of a drafter's candidates to propose, and how probable each is to be what the verifier will choose.
#pragma once

#include <cstdint>

namespace specgrove {

// Of the token after a row: how the verifier will choose it, and what the drafter's scores are divided by.
struct CandidateRow {
  uint64_t position, seed;
  float temperature;  // 0: greedy
  int64_t top_k;      // 0: off
  float top_p;        // 1: off
  float scale;
};

struct Candidates {
  const int64_t* token_ids;  // [num_candidates]; below 0: never proposed, but takes its share of the probability
  const float* logits;       // [num_candidates], falling; minus infinity: there is none, as where a row is filled up
  int64_t num_candidates;
  float log_sum_exp;  // of the whole vocabulary's logits
};

// The k best by score, ties to the lower id, and the logarithm of each one's share of exp(score); id -1 where there are
// fewer.
//   greedy, or noise_weight 0: score = logit / scale
//   sampled:                   score = (noise_weight * logit + temperature * noise(seed, position, id)) / scale
// A row that holds no numbers gets ids of -1. k may be larger than num_candidates.
void best_candidates(const Candidates& given, const CandidateRow& row, float noise_weight, int64_t k, float* log_probs,
                     int64_t* token_ids);

}  // namespace specgrove
