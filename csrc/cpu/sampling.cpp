#include "sampling.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "choice_of_many.h"
#include "logit_scan.h"
#include "noise.h"
#include "vector_math.h"

namespace specgrove {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// So many candidates are sorted at most: looking over the vocabulary some times takes as long as sorting a sixteenth.
int64_t max_num_sorted(int64_t vocab_size) { return std::max<int64_t>(1024, vocab_size / 16); }

float max_of(const float* values, int64_t count) {
  const float maximum = max_or_nan(values, count);
  if (maximum != maximum) throw std::invalid_argument("the logits hold NaN");
  return maximum;
}

// Of a whole row, which must leave a token.
float max_of_row(const float* logits, int64_t vocab_size) {
  const float maximum = max_of(logits, vocab_size);
  if (maximum == kMinusInfinity) throw std::invalid_argument("every token is banned");
  return maximum;
}

// Logits with bias, penalties and bans; the scratch belongs to the thread.
float* processed_logits(const ChoiceInput& input, const ChoiceParams& params) {
  thread_local std::vector<float> scratch;
  scratch.assign(input.logits, input.logits + input.vocab_size);
  // Ids may come from the network: one that is out of range must not become an address.
  const auto logit_of = [&](int64_t token_id) -> float& {
    if (token_id < 0 || token_id >= input.vocab_size) {
      throw std::invalid_argument("token id " + std::to_string(token_id) + " is out of range");
    }
    return scratch[token_id];
  };
  for (int64_t i = 0; i < input.num_bias; ++i) logit_of(input.bias_token_ids[i]) += input.bias[i];
  if (params.repetition_penalty != 1.0f) {
    for (int64_t i = 0; i < input.num_seen; ++i) {
      float& logit = logit_of(input.seen_token_ids[i]);
      logit = logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
  }
  for (int64_t i = 0; i < input.num_output; ++i) {
    const float count = static_cast<float>(input.output_counts[i]);
    logit_of(input.output_token_ids[i]) -= params.frequency_penalty * count + params.presence_penalty;
  }
  for (int64_t i = 0; i < input.num_banned; ++i) logit_of(input.banned_token_ids[i]) = kMinusInfinity;
  return scratch.data();
}

struct Candidate {
  float logit;
  int32_t token_id;
  // Most probable first, ties to the lower id.
  bool operator<(const Candidate& other) const {
    return logit != other.logit ? logit > other.logit : token_id < other.token_id;
  }
};

std::atomic<int64_t> num_sorted{0};

// The tokens that top-k, top-p and min-p leave, the most probable one first.
void sort_kept(const SampledRow& row, float floor, std::vector<Candidate>* kept) {
  const ChoiceParams& params = row.params;
  kept->clear();
  for (int64_t start = 0; start < row.vocab_size; start += kScanLanes) {
    const int64_t end = std::min(row.vocab_size, start + kScanLanes);
    if (end - start == kScanLanes && !any_reaches(row.logits + start, floor)) continue;
    for (int64_t i = start; i < end; ++i) {
      if (row.logits[i] >= floor) kept->push_back({row.logits[i], static_cast<int32_t>(i)});
    }
  }
  std::sort(kept->begin(), kept->end());
  size_t size = kept->size();
  num_sorted.fetch_add(static_cast<int64_t>(size), std::memory_order_relaxed);
  double allowed = row.total;
  if (row.is_top_k) {
    size = std::min<size_t>(size, params.top_k);
    allowed = 0.0;
    for (size_t i = 0; i < size; ++i) allowed += exp_of((*kept)[i].logit - row.maximum);
  }
  if (row.is_top_p) {
    double mass = 0.0;
    size_t count = 0;
    while (count < size) {
      mass += exp_of((*kept)[count++].logit - row.maximum);
      if (mass >= params.top_p * allowed) break;
    }
    size = count;
  }
  if (params.min_p > 0.0f) {
    while (size > 1 && exp_of((*kept)[size - 1].logit - row.maximum) < params.min_p) --size;
  }
  kept->resize(std::max<size_t>(size, 1));
}

const float* scaled_logits(const ChoiceInput& input, const ChoiceParams& params) {
  float* logits = processed_logits(input, params);
  scale(1.0f / params.temperature, input.vocab_size, logits);
  return logits;
}

SampledRow sampled_row(const ChoiceInput& input, const ChoiceParams& params) {
  const float* logits = scaled_logits(input, params);
  return {logits, input.vocab_size, params, max_of_row(logits, input.vocab_size)};
}

// The choice among all tokens. The noise has a maximum, so that what is too far below the best can't win.
int64_t choose_of_all(const ChoiceInput& input, const ChoiceParams& params, uint64_t position) {
  const float* logits = scaled_logits(input, params);
  const int64_t vocab_size = input.vocab_size;
  const int64_t likeliest = std::find(logits, logits + vocab_size, max_of_row(logits, vocab_size)) - logits;
  Choice choice;
  choice.offer(logits[likeliest] + gumbel_noise(params.seed, position, likeliest), likeliest);
  for (int64_t start = 0; start < vocab_size; start += kNoiseGroup) {
    const int64_t count = std::min(kNoiseGroup, vocab_size - start);
    const float threshold = choice.best - kMaxNoise;
    if (count == kNoiseGroup && !any_reaches(logits + start, threshold) &&
        !any_reaches(logits + start + kScanLanes, threshold)) {
      continue;
    }
    float noise[kNoiseGroup];
    noise_of_group(params.seed, position, start, noise);
    for (int64_t i = 0; i < count; ++i) choice.offer(logits[start + i] + noise[i], start + i);
  }
  return choice.token_id;
}

}  // namespace

int64_t argmax(const float* values, int64_t count) {
  const float maximum = max_of_row(values, count);
  return std::find(values, values + count, maximum) - values;
}

int64_t num_sorted_tokens() { return num_sorted.load(std::memory_order_relaxed); }

int64_t choose(const ChoiceInput& input, const ChoiceParams& params, uint64_t position) {
  if (params.temperature == 0.0f) {
    const bool is_plain =
        input.num_bias == 0 && input.num_banned == 0 && params.repetition_penalty == 1.0f &&
        (input.num_output == 0 || (params.presence_penalty == 0.0f && params.frequency_penalty == 0.0f));
    return argmax(is_plain ? input.logits : processed_logits(input, params), input.vocab_size);
  }
  // Log-probabilities differ from logits by a constant, which changes no comparison.
  const bool is_cut = (params.top_k > 0 && params.top_k < input.vocab_size) || params.top_p < 1.0f;
  if (!is_cut && params.min_p <= 0.0f) return choose_of_all(input, params, position);
  const SampledRow row = sampled_row(input, params);
  // Overflowed, as by a tiny repetition penalty: no probability is a number, all scores up there are equal.
  if (std::isinf(row.maximum)) return std::find(row.logits, row.logits + row.vocab_size, row.maximum) - row.logits;
  const Floor floor = floor_of(row);
  if (floor.num_reaching > max_num_sorted(row.vocab_size)) {
    if (const auto choice = choose_of_many(row, floor.logit, position)) return *choice;
  }
  thread_local std::vector<Candidate> kept;
  sort_kept(row, floor.logit, &kept);
  Choice choice;
  for (const Candidate& candidate : kept) {
    choice.offer(candidate.logit + gumbel_noise(params.seed, position, candidate.token_id), candidate.token_id);
  }
  return choice.token_id;
}

void processed_log_probs(const ChoiceInput& input, const ChoiceParams& params, float* out) {
  const SampledRow row = sampled_row(input, params);
  std::vector<Candidate> kept;
  sort_kept(row, floor_of(row).logit, &kept);
  float maximum = kMinusInfinity;
  for (const Candidate& candidate : kept) maximum = std::max(maximum, candidate.logit);
  double total = 0.0;
  for (const Candidate& candidate : kept) total += std::exp(static_cast<double>(candidate.logit) - maximum);
  std::fill_n(out, input.vocab_size, kMinusInfinity);
  for (const Candidate& candidate : kept) {
    out[candidate.token_id] = static_cast<float>(static_cast<double>(candidate.logit) - maximum - std::log(total));
  }
}

float log_sum_exp(const float* logits, int64_t vocab_size) {
  const float maximum = max_of_row(logits, vocab_size);
  const double total = sum_exp(logits, vocab_size, maximum);
  return maximum + static_cast<float>(std::log(total));
}

void top_k_log_probs(const float* logits, int64_t vocab_size, int64_t k, float* values, int64_t* token_ids) {
  const float normaliser = log_sum_exp(logits, vocab_size);
  // The best of every group bound the k-th best from below, so that few tokens are sorted.
  constexpr int64_t kGroup = 64;
  std::vector<float> bests;
  for (int64_t start = 0; start < vocab_size; start += kGroup) {
    bests.push_back(max_of(logits + start, std::min(kGroup, vocab_size - start)));
  }
  float threshold = kMinusInfinity;
  if (static_cast<int64_t>(bests.size()) >= k) {
    std::vector<float> sorted = bests;
    std::nth_element(sorted.begin(), sorted.begin() + (k - 1), sorted.end(), std::greater<float>());
    threshold = sorted[k - 1];
  }
  std::vector<Candidate> candidates;
  for (size_t group = 0; group < bests.size(); ++group) {
    if (bests[group] < threshold) continue;
    const int64_t start = static_cast<int64_t>(group) * kGroup, end = std::min(vocab_size, start + kGroup);
    for (int64_t i = start; i < end; ++i) {
      if (logits[i] >= threshold) candidates.push_back({logits[i], static_cast<int32_t>(i)});
    }
  }
  std::partial_sort(candidates.begin(), candidates.begin() + k, candidates.end());
  for (int64_t i = 0; i < k; ++i) {
    values[i] = candidates[i].logit - normaliser;
    token_ids[i] = candidates[i].token_id;
  }
}

}  // namespace specgrove
