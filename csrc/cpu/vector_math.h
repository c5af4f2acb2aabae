// exp, log and tanh with one defined order of operations, free of branches so that the compiler turns loops over them
// into vectors. Built with -ffp-contract=off and without fused multiply-adds here: plain multiplications and additions,
// so that every path (AVX-512, plain, torch reference, CUDA) can give the same bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "number_types.h"

namespace specgrove {

// e^x for x <= 0 or so (Cody-Waite reduction, degree 6 polynomial; relative error below 2e-7). Below -87 the result is
// 0.
SPECGROVE_ANYWHERE static inline float exp_of(float x) {
  const float clamped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
  const float shifted = clamped * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  float poly = r * 1.388888889e-3f + 8.333333333e-3f;
  poly = poly * r + 4.166666667e-2f;
  poly = poly * r + 1.666666667e-1f;
  poly = poly * r + 0.5f;
  poly = poly * r + 1.0f;
  poly = poly * r + 1.0f;
  const uint32_t scale = (static_cast<uint32_t>(static_cast<int32_t>(n)) + 127u) << 23;
  const float result = poly * bits_to_float(scale);
  return x < -87.0f ? 0.0f : result;
}

// Natural logarithm of a positive, normal x (relative error below 3e-7, near 1 too: what is computed there is log1p).
SPECGROVE_ANYWHERE static inline float log_of(float x) {
  const uint32_t bits = float_to_bits(x);
  // Mantissa to [sqrt(1/2), sqrt(2)).
  const uint32_t offset = bits - 0x3f3504f3u;
  const int32_t exponent = static_cast<int32_t>(offset) >> 23;
  const float m = bits_to_float((offset & 0x7fffffu) + 0x3f3504f3u);
  const float f = m - 1.0f;  // exact
  const float s = f / (2.0f + f);
  const float z = s * s;
  float poly = z * 0.1555555611f + 0.1818357216f;
  poly = poly * z + 0.2222219843f;
  poly = poly * z + 0.2857142874f;
  poly = poly * z + 0.4f;
  poly = poly * z + 0.6666666667f;
  const float e = static_cast<float>(exponent);
  // log(1 + f) = f - f^2/2 + s * (f^2/2 + z * poly), as in FreeBSD's logf.
  const float half_square = 0.5f * f * f;
  const float low = s * (half_square + z * poly) + e * 9.0580006145e-6f;
  return e * 0.6931381226f - ((half_square - low) - f);
}

// Distribution function of the standard normal, (1 + erf(x / sqrt(2))) / 2 (relative error below 7e-7 for x > -4, and
// below 1.2e-7 of 1 everywhere). Of the form of 7.1.26 in Abramowitz and Stegun, with a polynomial of degree 9 fitted
// to exp(z^2 / 2) * cdf(-z) for z from 0 to 13 with the smallest relative error (3.2e-8).
SPECGROVE_ANYWHERE static inline float normal_cdf_of(float x) {
  const float t = 1.0f / (1.0f + 0.35f * std::fabs(x));
  float poly = t * -2.911511866e-2f + 1.438189107e-1f;
  poly = poly * t - 2.553920146e-1f;
  poly = poly * t + 1.587976752e-1f;
  poly = poly * t - 2.284414902e-2f;
  poly = poly * t + 1.053924353e-1f;
  poly = poly * t + 1.198630196e-1f;
  poly = poly * t + 1.398575682e-1f;
  poly = poly * t + 1.396216575e-1f;
  const float tail = poly * t * exp_of(-0.5f * x * x);
  return x < 0.0f ? tail : 1.0f - tail;
}

// tanh (relative error below 3e-7): near 0 x + x^3 * polynomial in x^2, fitted with the smallest relative error (5e-9).
SPECGROVE_ANYWHERE static inline float tanh_of(float x) {
  const float size = std::fabs(x), square = x * x;
  float poly = square * -5.704986863e-3f + 2.063908614e-2f;
  poly = poly * square - 5.373971537e-2f;
  poly = poly * square + 1.333144158e-1f;
  poly = poly * square - 3.333328068e-1f;
  const float small = x + x * (square * poly);
  const float e = exp_of(-2.0f * size);
  const float large = (1.0f - e) / (1.0f + e);
  return size < 0.625f ? small : x < 0.0f ? -large : large;
}

// Soft-capping (arXiv 2408.00118): nearly x where that is small, and never beyond cap.
SPECGROVE_ANYWHERE static inline float soft_cap_of(float x, float cap) { return cap * tanh_of(x / cap); }

}  // namespace specgrove
