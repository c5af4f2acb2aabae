// Scores of a chunk to weights in bfloat16. Compiled once per form of the products, with the same bits everywhere.
//
// Scores come with the factor log2(e), so weights are powers of two of them. What they are measured from, a query's
// `maximum`, is an integer that need only be near the largest score: sums shrink by exact powers of two, and seldom.
#pragma once

#include <cmath>
#include <limits>

#include "attention_walk.h"

namespace specgrove {
namespace {

// Weights may reach 2^8 before they are measured from a larger maximum.
constexpr float kHeadroom = 8.0f;

// The scores of a chunk's 32 keys, by place.
struct Scores {
  Vec low, high;
};

// 2^x for x <= 0, an integer.
inline float power_of_two(float x) {
  return x >= -126.0f ? bits_to_float(static_cast<uint32_t>(static_cast<int32_t>(x) + 127) << 23) : 0.0f;
}

#if defined(__AVX512F__)

inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec iota() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
inline bool any_above(Vec x, float limit) { return _mm512_cmp_ps_mask(x, set1(limit), _CMP_GT_OQ) != 0; }
inline void hide(Scores& scores, Seen seen) {
  const uint32_t mask = (0xffffffffu << seen.begin) & (0xffffffffu >> (kKeyChunk - seen.end));
  const Vec hidden = set1(-std::numeric_limits<float>::infinity());
  scores.low = _mm512_mask_mov_ps(hidden, static_cast<__mmask16>(mask), scores.low);
  scores.high = _mm512_mask_mov_ps(hidden, static_cast<__mmask16>(mask >> 16), scores.high);
}
// x - floor(x), and p * 2^floor(x).
inline Vec fraction_of(Vec x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline Vec scale_by(Vec p, Vec x) { return _mm512_scalef_ps(p, x); }
// Rounds to bfloat16, subnormal numbers to zero, and adds what was rounded to the totals: even places, then odd ones.
inline void round_weights(const Scores& scores, uint16_t* weights, float* totals) {
  const __m512i rounded = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(scores.high, scores.low));
  _mm512_store_si512(weights, rounded);
  const Vec even = _mm512_castsi512_ps(_mm512_slli_epi32(rounded, 16));
  const Vec odd = _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  store(totals, add(add(load(totals), even), odd));
}

#else

template <typename Function>
inline Vec each(const Function& function) {
  Vec out;
  for (int64_t lane = 0; lane < kVec; ++lane) out.lanes[lane] = function(lane);
  return out;
}
inline Vec sub(Vec a, Vec b) {
  return each([&](int64_t i) { return a.lanes[i] - b.lanes[i]; });
}
inline Vec iota() {
  return each([](int64_t i) { return static_cast<float>(i); });
}
inline bool any_above(Vec x, float limit) {
  bool any = false;
  for (float lane : x.lanes) any = any || lane > limit;
  return any;
}
inline void hide(Scores& scores, Seen seen) {
  for (int64_t i = 0; i < kKeyChunk; ++i) {
    if (i >= seen.begin && i < seen.end) continue;
    (i < kVec ? scores.low : scores.high).lanes[i % kVec] = -std::numeric_limits<float>::infinity();
  }
}
inline Vec fraction_of(Vec x) {
  return each([&](int64_t i) { return std::isinf(x.lanes[i]) ? 0.0f : x.lanes[i] - std::floor(x.lanes[i]); });
}
inline Vec scale_by(Vec p, Vec x) {
  return each([&](int64_t i) {  // no float reaches past these limits
    const float power = std::floor(x.lanes[i]), limited = power < -300.0f ? -300.0f : power > 300.0f ? 300.0f : power;
    return std::isnan(power) ? power : std::ldexp(p.lanes[i], static_cast<int>(limited));
  });
}
inline void round_weights(const Scores& scores, uint16_t* weights, float* totals) {
  for (int64_t i = 0; i < kKeyChunk; ++i) {
    BFloat16 rounded;
    const float weight = (i < kVec ? scores.low : scores.high).lanes[i % kVec];
    from_float(weight < std::numeric_limits<float>::min() ? 0.0f : weight, &rounded);
    weights[i] = rounded.bits;
    totals[i / 2] += to_float(rounded);
  }
}

#endif

// 2^x. The polynomial's relative error is below 8e-5, a twentieth of what rounding to bfloat16 may add.
inline Vec power_of(Vec x) {
  const Vec r = fraction_of(x);
  Vec poly = fma(r, set1(7.802455106e-2f), set1(2.260671428e-1f));
  poly = fma(poly, r, set1(6.958335281e-1f));
  poly = fma(poly, r, set1(9.999252185e-1f));
  return scale_by(poly, x);
}

// What a query knows of the segment's keys so far.
struct Softmax {
  float maximum;
  float* totals;  // [16], by place: lane i is for places 2 i and 2 i + 1
  float* sums;    // of weighted values
};

// `slope` is for the key's distance, in places of the chunk from the query's: the chunk's first lies `distance` before.
inline void add_slope(Scores& scores, float slope, int64_t distance) {
  const Vec places = add(iota(), set1(static_cast<float>(-distance)));
  scores.low = fma(set1(slope), places, scores.low);
  scores.high = fma(set1(slope), add(places, set1(16.0f)), scores.high);
}

inline void shrink(float* x, int64_t count, float factor) {
  for (int64_t i = 0; i < count; i += kVec) store(x + i, mul(load(x + i), set1(factor)));
}

// Weights in bfloat16 from scores, and their total.
inline void soften(Scores scores, Seen seen, Softmax& query, int64_t padded, uint16_t* weights) {
  if (seen.end - seen.begin < kKeyChunk) hide(scores, seen);
  const Vec best = larger(scores.low, scores.high);
  if (any_above(best, query.maximum + kHeadroom)) {
    const float maximum = std::ceil(max_of(best)), factor = power_of_two(query.maximum - maximum);
    shrink(query.totals, kVec, factor);
    shrink(query.sums, padded, factor);
    query.maximum = maximum;
  }
  scores.low = power_of(sub(scores.low, set1(query.maximum)));
  scores.high = power_of(sub(scores.high, set1(query.maximum)));
  round_weights(scores, weights, query.totals);
}

}  // namespace
}  // namespace specgrove
