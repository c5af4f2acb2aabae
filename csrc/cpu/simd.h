// Sixteen floats as one value, in the instructions of the file that includes this: AVX-512, AVX2, or plain loops.
//
// Everything here has internal linkage, because files with different instructions are linked together. fma() rounds
// once where the instruction set has it and twice on the plain path: a path's bits are its own, but always the same.
#pragma once

#include <cstdint>
#include <cstring>

#include "number_types.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace specgrove {
namespace {

constexpr int64_t kVec = 16;

#if defined(__AVX512F__)

using Vec = __m512;
inline Vec set1(float value) { return _mm512_set1_ps(value); }
inline Vec load(const float* x) { return _mm512_loadu_ps(x); }
inline Vec load(const BFloat16* x) {
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
inline Vec load(const Float16* x) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))); }
// 32 numbers: those at even and those at odd places.
inline void load_pairs(const BFloat16* x, Vec* even, Vec* odd) {
  const __m512i words = _mm512_loadu_si512(x);
  *even = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  *odd = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline void store(float* x, Vec value) { _mm512_storeu_ps(x, value); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec larger(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline __m256 halves(Vec x, __m256* high) {
  *high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
  return _mm512_castps512_ps256(x);
}

#elif defined(__AVX2__)

struct Vec {
  __m256 low, high;
};
inline Vec set1(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Vec load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
inline __m256 widen(const float* x) { return _mm256_loadu_ps(x); }
inline __m256 widen(const BFloat16* x) {
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
inline __m256 widen(const Float16* x) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))); }
inline Vec load(const BFloat16* x) { return {widen(x), widen(x + 8)}; }
inline Vec load(const Float16* x) { return {widen(x), widen(x + 8)}; }
inline void take_apart(__m256i pairs, __m256* even, __m256* odd) {
  *even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  *odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline void load_pairs(const BFloat16* x, __m256* even, __m256* odd) {
  take_apart(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)), even, odd);
}
inline void load_pairs(const BFloat16* x, Vec* even, Vec* odd) {
  load_pairs(x, &even->low, &odd->low);
  load_pairs(x + kVec, &even->high, &odd->high);
}
inline void store(float* x, Vec value) {
  _mm256_storeu_ps(x, value.low);
  _mm256_storeu_ps(x + 8, value.high);
}
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Vec larger(Vec a, Vec b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline __m256 halves(Vec x, __m256* high) {
  *high = x.high;
  return x.low;
}

// What one register holds.
using Register = __m256;
constexpr int64_t kRegister = 8;
inline Register fill(float value) { return _mm256_set1_ps(value); }
template <typename T>
inline Register load_register(const T* x) {
  return widen(x);
}
inline Register scaled(Register x, Register factor) { return _mm256_mul_ps(x, factor); }
inline void store_register(float* x, Register value) { _mm256_storeu_ps(x, value); }
// Written as assembly: of the intrinsic GCC 12 makes forms that put the sum into another register, runs out of them,
// and keeps sums in memory, which takes half as long again.
inline void add_product(Register& sum, Register a, Register b) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
}

#else

struct Vec {
  float lanes[kVec];
};
inline Vec set1(float value) {
  Vec out;
  for (float& lane : out.lanes) lane = value;
  return out;
}
template <typename T>
inline Vec load(const T* x) {
  Vec out;
  for (int64_t lane = 0; lane < kVec; ++lane) out.lanes[lane] = to_float(x[lane]);
  return out;
}
inline void load_pairs(const BFloat16* x, Vec* even, Vec* odd) {
  for (int64_t lane = 0; lane < kVec; ++lane) {
    even->lanes[lane] = to_float(x[2 * lane]);
    odd->lanes[lane] = to_float(x[2 * lane + 1]);
  }
}
inline void store(float* x, Vec value) { std::memcpy(x, value.lanes, sizeof value.lanes); }
inline Vec mul(Vec a, Vec b) {
  for (int64_t lane = 0; lane < kVec; ++lane) a.lanes[lane] *= b.lanes[lane];
  return a;
}
inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(SPECGROVE_TILE_TWIN)  // which has the bits of AMX, and so of AVX-512
  for (int64_t lane = 0; lane < kVec; ++lane)
    c.lanes[lane] = __builtin_fmaf(a.lanes[lane], b.lanes[lane], c.lanes[lane]);
#else
  for (int64_t lane = 0; lane < kVec; ++lane) c.lanes[lane] += a.lanes[lane] * b.lanes[lane];
#endif
  return c;
}
inline Vec add(Vec a, Vec b) {
  for (int64_t lane = 0; lane < kVec; ++lane) a.lanes[lane] += b.lanes[lane];
  return a;
}
inline Vec larger(Vec a, Vec b) {
  for (int64_t lane = 0; lane < kVec; ++lane)
    a.lanes[lane] = a.lanes[lane] > b.lanes[lane] ? a.lanes[lane] : b.lanes[lane];
  return a;
}

#endif

#if !defined(__AVX2__) || defined(__AVX512F__)
// What one register holds: here a whole Vec.
using Register = Vec;
constexpr int64_t kRegister = kVec;
inline Register fill(float value) { return set1(value); }
template <typename T>
inline Register load_register(const T* x) {
  return load(x);
}
inline Register scaled(Register x, Register factor) { return mul(x, factor); }
inline void store_register(float* x, Register value) { store(x, value); }
inline void add_product(Register& sum, Register a, Register b) { sum = fma(a, b, sum); }
#endif

// Sum and maximum of the lanes. The sum adds halves: lanes 8 apart, then 4, 2 and 1.
#if defined(__AVX2__)
inline float sum_of(Vec x) {
  __m256 high;
  const __m256 low = halves(x, &high);
  const __m256 by8 = _mm256_add_ps(low, high);
  const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_add_ss(by2, _mm_movehdup_ps(by2)));
}
inline float max_of(Vec x) {
  __m256 high;
  const __m256 low = halves(x, &high);
  const __m256 by8 = _mm256_max_ps(low, high);
  const __m128 by4 = _mm_max_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
  const __m128 by2 = _mm_max_ps(by4, _mm_movehl_ps(by4, by4));
  return _mm_cvtss_f32(_mm_max_ss(by2, _mm_movehdup_ps(by2)));
}
#else
inline float sum_of(Vec x) {
  for (int64_t width = kVec / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) x.lanes[lane] += x.lanes[lane + width];
  }
  return x.lanes[0];
}
inline float max_of(Vec x) {
  for (int64_t lane = 1; lane < kVec; ++lane) x.lanes[0] = x.lanes[lane] > x.lanes[0] ? x.lanes[lane] : x.lanes[0];
  return x.lanes[0];
}
#endif

}  // namespace
}  // namespace specgrove
