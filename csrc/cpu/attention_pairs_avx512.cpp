// The products of pairs by `vdpbf16ps`. Called only where the processor has AVX-512 and BF16.
#include "attention_pairs.h"

namespace specgrove {
namespace {

constexpr int64_t kMaxRows = 8;  // with two vectors of sums each, two of b and a pair of a they fit the 32 registers

// out (+)= a * b; a is [rows, 2 * num_pairs], b [num_pairs, columns] pairs, out [rows, columns].
struct Product {
  const uint16_t* a;
  int64_t num_pairs;
  const uint32_t* b;
  int64_t columns;
  bool adds;
  float* out;
};

template <int kRows>
void multiply(const Product& product, int64_t first_row) {
  const int64_t num_pairs = product.num_pairs, columns = product.columns;
  const uint16_t* const a = product.a + first_row * 2 * num_pairs;
  for (int64_t column = 0; column < columns; column += 2 * kVec) {
    float* const out = product.out + first_row * columns + column;
    __m512 low[kRows], high[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      low[r] = product.adds ? _mm512_load_ps(out + r * columns) : _mm512_setzero_ps();
      high[r] = product.adds ? _mm512_load_ps(out + r * columns + kVec) : _mm512_setzero_ps();
    }
    const uint32_t* pairs = product.b + column;
    for (int64_t p = 0; p < num_pairs; ++p, pairs += columns) {
      const auto b_low = reinterpret_cast<__m512bh>(_mm512_load_si512(pairs));
      const auto b_high = reinterpret_cast<__m512bh>(_mm512_load_si512(pairs + kVec));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        int pair;
        std::memcpy(&pair, a + 2 * (r * num_pairs + p), sizeof pair);
        const auto factor = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
        low[r] = _mm512_dpbf16_ps(low[r], b_low, factor);
        high[r] = _mm512_dpbf16_ps(high[r], b_high, factor);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      _mm512_store_ps(out + r * columns, low[r]);
      _mm512_store_ps(out + r * columns + kVec, high[r]);
    }
  }
}

using Multiply = void (*)(const Product&, int64_t first_row);
constexpr Multiply kMultiply[] = {multiply<1>, multiply<2>, multiply<3>, multiply<4>,
                                  multiply<5>, multiply<6>, multiply<7>, multiply<8>};

// In parts of nearly the same number of rows.
void multiply_all(const Product& product, int64_t num_rows) {
  const int64_t num_parts = (num_rows + kMaxRows - 1) / kMaxRows;
  for (int64_t part = 0; part < num_parts; ++part) {
    const int64_t first = num_rows * part / num_parts, end = num_rows * (part + 1) / num_parts;
    kMultiply[end - first - 1](product, first);
  }
}

struct Products {
  Products(int64_t, int64_t) {}

  void score(const uint16_t* queries, int64_t num_pairs, int64_t count, const uint32_t* keys, float* scores) const {
    multiply_all({queries, num_pairs, keys, kKeyChunk, false, scores}, count);
  }

  void add_values(const uint16_t* weights, int64_t count, const uint32_t* values, int64_t padded, float* sums) const {
    multiply_all({weights, kKeyChunk / 2, values, padded, true, sums}, count);
  }
};

}  // namespace

AttentionKernels attention_pairs_avx512() { return pair_attention<Products>(); }

}  // namespace specgrove
