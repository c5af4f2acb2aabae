// From a row of logits to one token: greedy, or by shared-randomness (Gumbel-max) sampling with counter-based noise.
#pragma once

#include <cstdint>
#include <vector>

namespace specgrove {

struct ChoiceParams {
  float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  int64_t top_k;
  uint64_t seed;
};

struct ChoiceInput {
  const float* logits;  // [vocab_size]
  int64_t vocab_size;
  const int64_t* seen_token_ids;  // distinct, of prompt and output
  int64_t num_seen;
  const int64_t* output_token_ids;  // distinct, of the output
  const int64_t* output_counts;
  int64_t num_output;
  const int64_t* bias_token_ids;
  const float* bias;
  int64_t num_bias;
  const int64_t* banned_token_ids;
  int64_t num_banned;
};

// The choice. Throws std::invalid_argument when a logit is NaN or no token is left.
int64_t choose(const ChoiceInput& input, const ChoiceParams& params, uint64_t position);
// Tokens that choices of this process have sorted so far: what top-k, top-p and min-p cost where many tokens are alike.
int64_t num_sorted_tokens();
// log-probabilities after processing: out[vocab_size], minus infinity for tokens that are out.
void processed_log_probs(const ChoiceInput& input, const ChoiceParams& params, float* out);

// First index of the maximum. Throws std::invalid_argument on NaN, and when all are minus infinity.
int64_t argmax(const float* values, int64_t count);
// The k most probable of softmax(logits), most probable first, ties to the lower id.
void top_k_log_probs(const float* logits, int64_t vocab_size, int64_t k, float* values, int64_t* token_ids);
// log(sum(exp(logits)))
float log_sum_exp(const float* logits, int64_t vocab_size);

}  // namespace specgrove
