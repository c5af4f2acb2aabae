// Scans of a row of logits, or of a part of one, that the compiler vectorises.
#pragma once

#include <cstdint>

namespace specgrove {

constexpr int64_t kScanLanes = 32;

// values *= factor
void scale(float factor, int64_t count, float* values);
// values = cap * tanh(values / cap)
void soft_cap(float cap, int64_t count, float* values);
// Whether a group of kScanLanes values holds one that is at least the threshold: most groups do not.
bool any_reaches(const float* values, float threshold);
// The largest value; NaN where there is one.
float max_or_nan(const float* values, int64_t count);
// Sum of exp(x - maximum), one running sum per lane and chunk, added up in a tree: the order of additions is fixed.
double sum_exp(const float* x, int64_t count, float maximum);

}  // namespace specgrove
