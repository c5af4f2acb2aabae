#include "logit_scan.h"

#include <algorithm>
#include <limits>

#include "clones.h"
#include "vector_math.h"

namespace specgrove {
namespace {}  // namespace

SPECGROVE_CLONES void scale(float factor, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] *= factor;
}

SPECGROVE_CLONES void soft_cap(float cap, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = soft_cap_of(values[i], cap);
}

SPECGROVE_CLONES bool any_reaches(const float* values, float threshold) {
  bool found = false;
  for (int64_t lane = 0; lane < kScanLanes; ++lane) found |= values[lane] >= threshold;
  return found;
}

SPECGROVE_CLONES int64_t count_reaching(const float* values, int64_t count, float threshold) {
  int64_t found = 0;
  for (int64_t start = 0; start < count; start += kSumChunk) {
    const int64_t end = std::min(count, start + kSumChunk);
    int32_t in_chunk = 0;
    for (int64_t i = start; i < end; ++i) in_chunk += values[i] >= threshold;
    found += in_chunk;
  }
  return found;
}

SPECGROVE_CLONES double mass_reaching(const float* x, int64_t count, float maximum, float threshold) {
  double sums[kScanLanes] = {};
  int64_t i = 0;
  for (; i + kScanLanes <= count; i += kScanLanes) {
    if (!any_reaches(x + i, threshold)) continue;
    float masses[kScanLanes];
    for (int64_t lane = 0; lane < kScanLanes; ++lane) {
      const float mass = exp_of(x[i + lane] - maximum);
      masses[lane] = x[i + lane] >= threshold ? mass : 0.0f;
    }
    for (int64_t lane = 0; lane < kScanLanes; ++lane) sums[lane] += masses[lane];
  }
  for (; i < count; ++i) sums[0] += x[i] >= threshold ? exp_of(x[i] - maximum) : 0.0f;
  for (int64_t lane = 1; lane < kScanLanes; ++lane) sums[0] += sums[lane];
  return sums[0];
}

SPECGROVE_CLONES int64_t best_reaching(const float* values, const float* scores, int64_t count, float threshold) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  int64_t best_place = -1;
  float best = kNone;
  for (int64_t start = 0; start < count; start += kScanLanes) {
    const int64_t num = std::min(kScanLanes, count - start);
    // Whether there is a better one: most groups have none.
    bool found = false;
    for (int64_t lane = 0; lane < num; ++lane) {
      found |= (values[start + lane] >= threshold) & (scores[start + lane] > best);
    }
    if (!found) continue;
    for (int64_t i = start; i < start + num; ++i) {
      if (values[i] >= threshold && scores[i] > best) {
        best = scores[i];
        best_place = i;
      }
    }
  }
  return best_place;
}

SPECGROVE_CLONES float lowest_probable(const float* values, int64_t count, float maximum, float min_p) {
  float lowest[kScanLanes];
  std::fill_n(lowest, kScanLanes, maximum);
  for (int64_t start = 0; start < count; start += kScanLanes) {
    const int64_t num = std::min(kScanLanes, count - start);
    for (int64_t lane = 0; lane < num; ++lane) {
      const float value = values[start + lane];
      const bool is_lower = (exp_of(value - maximum) >= min_p) & (value < lowest[lane]);
      lowest[lane] = is_lower ? value : lowest[lane];
    }
  }
  return *std::min_element(lowest, lowest + kScanLanes);
}

SPECGROVE_CLONES float max_or_nan(const float* values, int64_t count) {
  float maxima[kScanLanes];
  std::fill_n(maxima, kScanLanes, -std::numeric_limits<float>::infinity());
  uint32_t has_nan = 0;
  int64_t i = 0;
  for (; i + kScanLanes <= count; i += kScanLanes) {
    for (int64_t lane = 0; lane < kScanLanes; ++lane) {
      const float value = values[i + lane];
      maxima[lane] = value > maxima[lane] ? value : maxima[lane];
      has_nan |= value != value;
    }
  }
  for (; i < count; ++i) {
    maxima[0] = values[i] > maxima[0] ? values[i] : maxima[0];
    has_nan |= values[i] != values[i];
  }
  if (has_nan != 0) return std::numeric_limits<float>::quiet_NaN();
  return *std::max_element(maxima, maxima + kScanLanes);
}

SPECGROVE_CLONES double sum_exp(const float* x, int64_t count, float maximum) {
  double total = 0.0;
  for (int64_t start = 0; start < count; start += kSumChunk) {
    float sums[kScanLanes] = {};
    const int64_t end = std::min(count, start + kSumChunk);
    int64_t i = start;
    for (; i + kScanLanes <= end; i += kScanLanes) {
      for (int64_t lane = 0; lane < kScanLanes; ++lane) sums[lane] += exp_of(x[i + lane] - maximum);
    }
    for (int64_t lane = 0; i < end; ++i, ++lane) sums[lane] += exp_of(x[i] - maximum);
    for (int64_t width = kScanLanes / 2; width > 0; width /= 2) {
      for (int64_t lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
    }
    total += sums[0];
  }
  return total;
}

}  // namespace specgrove
