#include "row_choices.h"

#include <algorithm>
#include <limits>

#include "choice_key.h"
#include "logit_scan.h"
#include "noise.h"

namespace specgrove {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Valid until the thread's next call.
const float* capped(const float* logits, int64_t count, float cap) {
  thread_local std::vector<float> values;
  values.assign(logits, logits + count);
  soft_cap(cap, count, values.data());
  return values.data();
}

}  // namespace

void RowChoices::Best::offer(float value, int64_t token_id) {
  const uint64_t offered = choice_key(value, token_id);
  uint64_t held = key.load(std::memory_order_relaxed);
  while (offered > held && !key.compare_exchange_weak(held, offered, std::memory_order_relaxed)) {
  }
}

float RowChoices::Best::value() const {
  const uint64_t held = key.load(std::memory_order_relaxed);
  return held == 0 ? kMinusInfinity : value_of_key(held);
}

void RowChoices::begin(const std::vector<AskedRow>& rows, float soft_cap) {
  rows_ = &rows;
  soft_cap_ = soft_cap;
  if (rows.size() > num_bests_) {
    bests_ = std::make_unique<Best[]>(rows.size());
    num_bests_ = rows.size();
  }
  for (size_t row = 0; row < rows.size(); ++row) {
    bests_[row].key.store(0, std::memory_order_relaxed);
    bests_[row].has_nan.store(false, std::memory_order_relaxed);
  }
}

void RowChoices::take(const OutputTile& tile) {
  const float* outputs = tile.values;
  for (size_t row = 0; row < rows_->size(); ++row, outputs += tile.row_stride) {
    const AskedRow& asked = (*rows_)[row];
    const float* const logits = soft_cap_ > 0.0f ? capped(outputs, tile.num_outputs, soft_cap_) : outputs;
    if (asked.logits != nullptr) {
      std::copy(logits, logits + tile.num_outputs, asked.logits + tile.first_output);
    } else if (asked.temperature == 0.0f) {
      offer_largest(logits, tile, &bests_[row]);
    } else {
      offer_sampled(asked, logits, tile, &bests_[row]);
    }
  }
}

void RowChoices::offer_largest(const float* logits, const OutputTile& tile, Best* best) const {
  const float maximum = max_or_nan(logits, tile.num_outputs);
  if (maximum != maximum) best->has_nan.store(true, std::memory_order_relaxed);
  if (maximum == kMinusInfinity || !(maximum >= best->value())) return;
  best->offer(maximum, tile.first_output + (std::find(logits, logits + tile.num_outputs, maximum) - logits));
}

// The noise has a maximum, so that what is too far below the best can't win.
void RowChoices::offer_sampled(const AskedRow& row, const float* logits, const OutputTile& tile, Best* best) const {
  thread_local std::vector<float> scaled;
  scaled.assign(logits, logits + tile.num_outputs);
  scale(1.0f / row.temperature, tile.num_outputs, scaled.data());
  const float maximum = max_or_nan(scaled.data(), tile.num_outputs);
  if (maximum != maximum) best->has_nan.store(true, std::memory_order_relaxed);
  if (maximum == kMinusInfinity || !(maximum >= best->value() - kMaxNoise)) return;
  const auto likeliest = std::find(scaled.begin(), scaled.end(), maximum) - scaled.begin() + tile.first_output;
  best->offer(maximum + gumbel_noise(row.seed, row.position, likeliest), likeliest);
  for (int64_t start = 0; start < tile.num_outputs; start += kNoiseGroup) {
    const int64_t count = std::min(kNoiseGroup, tile.num_outputs - start);
    const float* const group = scaled.data() + start;
    float value = best->value();
    if (count == kNoiseGroup && !any_reaches(group, value - kMaxNoise) &&
        !any_reaches(group + kScanLanes, value - kMaxNoise)) {
      continue;
    }
    float noise[kNoiseGroup];
    noise_of_group(row.seed, row.position, tile.first_output + start, noise);
    for (int64_t i = 0; i < count; ++i) {
      if (group[i] + noise[i] < value || group[i] == kMinusInfinity) continue;
      value = group[i] + noise[i];
      best->offer(value, tile.first_output + start + i);
    }
  }
}

int64_t RowChoices::choice(size_t row) const {
  if ((*rows_)[row].logits != nullptr) return kNoChoice;
  const Best& best = bests_[row];
  if (best.has_nan.load(std::memory_order_relaxed)) return kNotANumber;
  const uint64_t key = best.key.load(std::memory_order_relaxed);
  return key == 0 ? kAllBanned : token_of_key(key);
}

}  // namespace specgrove
