#include "choice_of_many.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "choice_key.h"
#include "noise.h"
#include "vector_math.h"

namespace specgrove {
namespace {

// Sums of the same numbers in another order differ by less than this share.
constexpr double kSumError = 1e-9;

// What is more probable than a token: larger, or as large with a lower id.
template <typename Scan>
auto above(const SampledRow& row, int64_t token_id, const Scan& scan) {
  const float logit = row.logits[token_id];
  return scan(0, token_id, logit) +
         scan(token_id + 1, row.vocab_size, std::nextafter(logit, std::numeric_limits<float>::infinity()));
}

// Whether top-k, top-p and min-p leave a token; none where the order of a sum could change the answer.
class IsKept {
 public:
  explicit IsKept(const SampledRow& row) : row_(row) {
    if (row.params.min_p > 0.0f) {
      lowest_ = lowest_probable(row.logits, row.vocab_size, row.maximum, row.params.min_p);
    }
    allowed_ = row.is_top_k && row.is_top_p ? mass_of_top_k() : row.total;
  }

  std::optional<bool> operator()(int64_t token_id) const {
    const ChoiceParams& params = row_.params;
    const auto num_above = above(row_, token_id, [&](int64_t start, int64_t end, float threshold) {
      return count_reaching(row_.logits + start, end - start, threshold);
    });
    if (num_above == 0) return true;
    if (row_.is_top_k && num_above >= params.top_k) return false;
    if (params.min_p > 0.0f && exp_of(row_.logits[token_id] - row_.maximum) < params.min_p) {
      // exp_of may be lower for the larger of two neighbours, and then less probable ones count.
      if (row_.logits[token_id] >= lowest_) return std::nullopt;
      return false;
    }
    if (!row_.is_top_p) return true;
    const double mass = above(row_, token_id, [&](int64_t start, int64_t end, float threshold) {
      return mass_reaching(row_.logits + start, end - start, row_.maximum, threshold);
    });
    const double wanted = params.top_p * allowed_;
    if (std::abs(mass - wanted) <= kSumError * wanted) return std::nullopt;
    return mass < wanted;
  }

 private:
  // The k-th largest logit is found by halves, since many a vocabulary is looked over sooner than a part of it is
  // sorted.
  double mass_of_top_k() const {
    const auto num_reaching = [&](float threshold) { return count_reaching(row_.logits, row_.vocab_size, threshold); };
    constexpr float kLowest = std::numeric_limits<float>::lowest();
    const int64_t k = std::min(row_.params.top_k, num_reaching(kLowest));
    uint64_t low = choice_key(kLowest, 0) >> 32, high = choice_key(row_.maximum, 0) >> 32;
    while (low < high) {
      const uint64_t middle = low + (high - low + 1) / 2;
      if (num_reaching(value_of_key(middle << 32)) >= k) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    const float last = value_of_key(low << 32);
    const float next = std::nextafter(last, std::numeric_limits<float>::infinity());
    const auto num_last = static_cast<double>(k - num_reaching(next));
    return mass_reaching(row_.logits, row_.vocab_size, row_.maximum, next) + num_last * exp_of(last - row_.maximum);
  }

  const SampledRow& row_;
  float lowest_ = 0.0f;
  double allowed_;
};

}  // namespace

Floor floor_of(const SampledRow& row) {
  const ChoiceParams& params = row.params;
  const auto floor_at = [&](float logit) { return Floor{logit, count_reaching(row.logits, row.vocab_size, logit)}; };
  // With both, top-p is a share of all that top-k leaves, so that min-p must not end the search for it.
  const bool is_min_p = params.min_p > 0.0f && !(row.is_top_k && row.is_top_p);
  for (float distance : {6.0f, 14.0f}) {
    const Floor floor = floor_at(row.maximum - distance);
    if (is_min_p && distance > -std::log(params.min_p) + 1e-3f) return floor;
    if (row.is_top_k) {
      if (floor.num_reaching >= params.top_k) return floor;
    } else if (row.is_top_p) {
      const double mass = mass_reaching(row.logits, row.vocab_size, row.maximum, floor.logit);
      if (mass >= params.top_p * row.total * (1.0 + kSumError)) return floor;
    }
  }
  return floor_at(std::numeric_limits<float>::lowest());
}

std::optional<int64_t> choose_of_many(const SampledRow& row, float floor, uint64_t position) {
  thread_local std::vector<float> scores;
  scores.resize(row.vocab_size + kNoiseGroup);
  for (int64_t start = 0; start < row.vocab_size; start += kNoiseGroup) {
    noise_of_group(row.params.seed, position, start, &scores[start]);
  }
  for (int64_t i = 0; i < row.vocab_size; ++i) scores[i] += row.logits[i];
  const IsKept is_kept(row);
  int64_t winner = best_reaching(row.logits, scores.data(), row.vocab_size, floor);
  while (true) {
    const std::optional<bool> found = is_kept(winner);
    if (!found.has_value()) return std::nullopt;
    if (*found) return winner;
    Choice next;
    const auto offer = [&](int64_t start, int64_t end, float threshold) {
      const int64_t place = best_reaching(row.logits + start, &scores[start], end - start, threshold);
      if (place >= 0) next.offer(scores[start + place], start + place);
      return 0;
    };
    above(row, winner, offer);
    winner = next.token_id;
  }
}

}  // namespace specgrove
