#include "candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "clones.h"
#include "noise.h"
#include "vector_math.h"

namespace specgrove {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kMeanNoise = 0.57721566f;
// A share of the probability below this is a rounding error of the sum over the candidates.
constexpr float kLeastShare = 1e-6f;

// Sum of exp((value - largest) * factor), largest being at least any value.
SPECGROVE_CLONES float sum_of_powers(const float* values, int64_t count, float largest, float factor) {
  float sum = 0.0f;
  for (int64_t i = 0; i < count; ++i) sum += exp_of((values[i] - largest) * factor);
  return sum;
}

// Candidates that there are: rows are filled up with logits of minus infinity.
int64_t num_present(const Candidates& candidates) {
  int64_t count = candidates.num_candidates;
  while (count > 0 && candidates.logits[count - 1] == kMinusInfinity) --count;
  return count;
}

// How many of the candidates the verifier's top-k and top-p would leave, if its logits were these.
int64_t num_kept(const Candidates& candidates, const CandidateRow& row) {
  int64_t kept = candidates.num_candidates;
  if (row.top_k > 0) kept = std::min(kept, row.top_k);
  if (row.top_p >= 1.0f) return kept;
  const float factor = 1.0f / row.temperature, best = candidates.logits[0];
  const float wanted = row.top_p * sum_of_powers(candidates.logits, kept, best, factor);
  float reached = 0.0f;
  for (int64_t i = 0; i < kept; ++i) {
    reached += exp_of((candidates.logits[i] - best) * factor);
    if (reached >= wanted) return i + 1;
  }
  return kept;
}

// log(sum of exp(logit)) of the tokens that are no candidates.
float log_sum_of_others(const Candidates& candidates) {
  const float best = candidates.logits[0];
  const float share = 1.0f - exp_of(best - candidates.log_sum_exp) *
                                 sum_of_powers(candidates.logits, candidates.num_candidates, best, 1.0f);
  return share < kLeastShare ? kMinusInfinity : candidates.log_sum_exp + std::log(share);
}

}  // namespace

void best_candidates(const Candidates& given, const CandidateRow& row, float noise_weight, int64_t k, float* log_probs,
                     int64_t* token_ids) {
  std::fill_n(log_probs, k, kMinusInfinity);
  std::fill_n(token_ids, k, -1);
  Candidates candidates = given;
  candidates.num_candidates = num_present(given);
  if (candidates.num_candidates == 0) return;
  const float* const logits = candidates.logits;
  if (!std::isfinite(logits[0]) || !std::isfinite(candidates.log_sum_exp)) return;
  const bool is_sampled = row.temperature > 0.0f, has_noise = is_sampled && noise_weight > 0.0f;
  const int64_t kept = is_sampled ? num_kept(candidates, row) : candidates.num_candidates;
  const float weight = (has_noise ? noise_weight : 1.0f) / row.scale;
  const float spread = has_noise ? row.temperature / row.scale : 0.0f;
  thread_local std::vector<float> scores, noise;
  scores.resize(kept);
  noise.resize(kept);
  if (has_noise) noise_of(row.seed, row.position, candidates.token_ids, kept, noise.data());
  float others = kMinusInfinity;
  if (kept == candidates.num_candidates) {
    others = log_sum_of_others(candidates);
    // Their best score is that of one token with log(sum of exp(logit / T)). No logit among them is above the last
    // candidate's.
    if (has_noise) others = row.temperature * others + (1.0f - row.temperature) * logits[kept - 1];
    others = weight * others + spread * kMeanNoise;
  }
  float largest = others;
  for (int64_t i = 0; i < kept; ++i) {
    const float known = has_noise && candidates.token_ids[i] >= 0 ? noise[i] : kMeanNoise;
    scores[i] = weight * logits[i] + spread * known;
    largest = std::max(largest, scores[i]);
  }
  const float total = sum_of_powers(scores.data(), kept, largest, 1.0f) + exp_of(others - largest);
  const float normaliser = largest + std::log(total);
  thread_local std::vector<int64_t> order;
  order.clear();
  for (int64_t i = 0; i < kept; ++i) {
    if (candidates.token_ids[i] >= 0 && scores[i] > kMinusInfinity) order.push_back(i);
  }
  const auto count = std::min<int64_t>(k, static_cast<int64_t>(order.size()));
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int64_t a, int64_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : candidates.token_ids[a] < candidates.token_ids[b];
  });
  for (int64_t i = 0; i < count; ++i) {
    log_probs[i] = scores[order[i]] - normaliser;
    token_ids[i] = candidates.token_ids[order[i]];
  }
}

}  // namespace specgrove
