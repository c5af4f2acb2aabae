// Integer products of codes, 16 outputs as one value, in the instructions of the file that includes this: AVX-512 VNNI,
// AVX2, or plain loops. As in simd.h everything has internal linkage; unlike there, all paths give the same bits.
//
// Codes of 8 bits and those of inputs are signed bytes, codes of 4 bits unsigned ones. VNNI multiplies unsigned by
// signed bytes: it takes weights' codes of 8 bits as 128 higher, and starts their sums at -128 times the sum of the
// inputs'.
#pragma once

#include <cstdint>

#include "quantized_inputs.h"
#include "simd.h"

namespace specgrove {
namespace {

// Products of codes of 4 bits are added between begin_part4 and end_part4, of 8 bits as they come.
#if defined(__AVX512VNNI__)

using IntVec = __m512i;
using Codes = __m512i;   // of four inputs of each output
using Inputs = __m512i;  // four codes of a row, for each output
using Codes4 = Codes;    // codes of 4 bits, with the sums of their products within a part
using Inputs4 = Inputs;
using Sums4 = IntVec;
inline IntVec set1(int32_t value) { return _mm512_set1_epi32(value); }
inline Vec to_float(IntVec value) { return _mm512_cvtepi32_ps(value); }
inline IntVec load_ints(const int32_t* x) { return _mm512_loadu_si512(x); }
inline IntVec first_sum(int32_t start) { return set1(start); }
inline Codes load_codes(const uint8_t* packed) {
  return _mm512_xor_si512(_mm512_loadu_si512(packed), _mm512_set1_epi8(-128));
}
// The codes in the lower and those in the upper halves of 64 bytes.
inline void load_halves(const uint8_t* packed, Codes* low, Codes* high) {
  const __m512i bytes = _mm512_loadu_si512(packed), mask = _mm512_set1_epi8(15);
  *low = _mm512_and_si512(bytes, mask);
  *high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
}
inline void store_codes(uint8_t* bytes, Codes codes) { _mm512_storeu_si512(bytes, codes); }
inline Inputs broadcast(int32_t four) { return _mm512_set1_epi32(four); }
inline Inputs4 broadcast4(int32_t four) { return broadcast(four); }
inline IntVec add_products(IntVec sum, Codes codes, Inputs inputs) { return _mm512_dpbusd_epi32(sum, codes, inputs); }
inline Sums4 begin_part4(IntVec before) { return before; }
inline Sums4 add_products4(Sums4 sum, Codes codes, Inputs inputs) { return add_products(sum, codes, inputs); }
inline IntVec end_part4(IntVec, Sums4 sum) { return sum; }

#elif defined(__AVX2__)

struct IntVec {
  __m256i low, high;
};
// Codes of 8 bits, and their sizes. AVX2 too multiplies unsigned by signed bytes: sizes by inputs that have the codes'
// signs. Two such products are a sum of 16 bits, which 2 * 127 * 127 don't fill; more are added as 32 bits.
struct Codes {
  __m256i low, high, low_sizes, high_sizes;
};
using Inputs = __m256i;
// Those of 4 bits stay bytes, and have 16-bit sums of pairs, which the products of a part don't fill.
struct Codes4 {
  __m256i low, high;
};
using Inputs4 = __m256i;
struct Sums4 {
  __m256i low, high;
};
inline IntVec set1(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
inline Vec to_float(IntVec value) { return {_mm256_cvtepi32_ps(value.low), _mm256_cvtepi32_ps(value.high)}; }
inline IntVec first_sum(int32_t) { return set1(0); }
inline __m256i half_of(const uint8_t* packed, int half) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed) + half);
}
inline Codes load_codes(const uint8_t* packed) {
  const __m256i low = half_of(packed, 0), high = half_of(packed, 1);
  return {low, high, _mm256_abs_epi8(low), _mm256_abs_epi8(high)};
}
inline Inputs broadcast(int32_t four) { return _mm256_set1_epi32(four); }
// Written as assembly: GCC 12 puts off the additions of intrinsics, and writes the products to memory till then.
inline __m256i add32(__m256i sum, __m256i products) {
  asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products));
  return sum;
}
inline __m256i add16(__m256i sum, __m256i products) {
  asm("vpaddw %1, %0, %0" : "+x"(sum) : "x"(products));
  return sum;
}
inline __m256i add_half(__m256i sum, __m256i codes, __m256i sizes, Inputs inputs) {
  const __m256i pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(inputs, codes));
  return add32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline IntVec add_products(const IntVec& sum, const Codes& codes, Inputs inputs) {
  return {add_half(sum.low, codes.low, codes.low_sizes, inputs),
          add_half(sum.high, codes.high, codes.high_sizes, inputs)};
}
inline void load_halves(const uint8_t* packed, Codes4* low, Codes4* high) {
  const __m256i mask = _mm256_set1_epi8(15), first = half_of(packed, 0), second = half_of(packed, 1);
  *low = {_mm256_and_si256(first, mask), _mm256_and_si256(second, mask)};
  *high = {_mm256_and_si256(_mm256_srli_epi16(first, 4), mask), _mm256_and_si256(_mm256_srli_epi16(second, 4), mask)};
}
inline Inputs4 broadcast4(int32_t four) { return _mm256_set1_epi32(four); }
inline Sums4 begin_part4(const IntVec&) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Sums4 add_products4(const Sums4& sum, const Codes4& codes, Inputs4 inputs) {
  static_assert(kPartInputs / 2 * 15 * 127 < 1 << 15, "a lane of 16 bits must hold half of a part's products");
  return {add16(sum.low, _mm256_maddubs_epi16(codes.low, inputs)),
          add16(sum.high, _mm256_maddubs_epi16(codes.high, inputs))};
}
inline IntVec end_part4(const IntVec& before, const Sums4& sum) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(before.low, _mm256_madd_epi16(sum.low, ones)),
          _mm256_add_epi32(before.high, _mm256_madd_epi16(sum.high, ones))};
}

#else

struct IntVec {
  int32_t lanes[kVec];
};
struct Codes {
  int8_t bytes[4 * kVec];
};
struct Inputs {
  int8_t bytes[4];
};
using Codes4 = Codes;
using Inputs4 = Inputs;
using Sums4 = IntVec;
inline IntVec set1(int32_t value) {
  IntVec out;
  for (int32_t& lane : out.lanes) lane = value;
  return out;
}
inline Vec to_float(const IntVec& value) {
  Vec out;
  for (int64_t lane = 0; lane < kVec; ++lane) out.lanes[lane] = static_cast<float>(value.lanes[lane]);
  return out;
}
inline IntVec load_ints(const int32_t* x) {
  IntVec out;
  std::memcpy(out.lanes, x, sizeof out.lanes);
  return out;
}
inline IntVec first_sum(int32_t) { return set1(0); }
inline Codes load_codes(const uint8_t* packed) {
  Codes codes;
  std::memcpy(codes.bytes, packed, sizeof codes.bytes);
  return codes;
}
inline void load_halves(const uint8_t* packed, Codes* low, Codes* high) {
  for (int64_t i = 0; i < 4 * kVec; ++i) {
    low->bytes[i] = packed[i] & 15;
    high->bytes[i] = packed[i] >> 4;
  }
}
inline void store_codes(uint8_t* bytes, const Codes& codes) { std::memcpy(bytes, codes.bytes, sizeof codes.bytes); }
inline Inputs broadcast(int32_t four) {
  Inputs inputs;
  std::memcpy(inputs.bytes, &four, sizeof inputs.bytes);
  return inputs;
}
inline Inputs4 broadcast4(int32_t four) { return broadcast(four); }
inline IntVec add_products(IntVec sum, const Codes& codes, const Inputs& inputs) {
  for (int64_t lane = 0; lane < kVec; ++lane) {
    for (int64_t i = 0; i < 4; ++i) sum.lanes[lane] += codes.bytes[4 * lane + i] * inputs.bytes[i];
  }
  return sum;
}
inline Sums4 begin_part4(const IntVec& before) { return before; }
inline Sums4 add_products4(const Sums4& sum, const Codes& codes, const Inputs& inputs) {
  return add_products(sum, codes, inputs);
}
inline IntVec end_part4(const IntVec&, const Sums4& sum) { return sum; }

#endif

}  // namespace
}  // namespace specgrove
