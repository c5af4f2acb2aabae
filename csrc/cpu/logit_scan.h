// Scans of a row of logits, or of a part of one, that the compiler vectorises.
#pragma once

#include <cstdint>

namespace specgrove {

constexpr int64_t kScanLanes = 32;
constexpr int64_t kSumChunk = 1024;  // values that sum_exp adds up before it adds their sum to that of others

// values *= factor
void scale(float factor, int64_t count, float* values);
// values = cap * tanh(values / cap)
void soft_cap(float cap, int64_t count, float* values);
// Whether a group of kScanLanes values holds one that is at least the threshold: most groups do not.
bool any_reaches(const float* values, float threshold);
// How many values are at least the threshold.
int64_t count_reaching(const float* values, int64_t count, float threshold);
// Sum of exp(x - maximum) of the values that are at least the threshold, in some order.
double mass_reaching(const float* x, int64_t count, float maximum, float threshold);
// Index of the largest score among those whose value is at least the threshold, the first of equal ones; -1: there is
// none.
int64_t best_reaching(const float* values, const float* scores, int64_t count, float threshold);
// The lowest value whose exp(value - maximum) is at least min_p.
float lowest_probable(const float* values, int64_t count, float maximum, float min_p);
// The largest value; NaN where there is one.
float max_or_nan(const float* values, int64_t count);
// Sum of exp(x - maximum), one running sum per lane and chunk, added up in a tree: the order of additions is fixed.
double sum_exp(const float* x, int64_t count, float maximum);

}  // namespace specgrove
