// Compiled with AVX2, FMA and F16C whatever the machine that builds; called only where the processor has them.
//
// A tile of up to 6 rows shares what was made of the packed weights: floats. The sums of its rows fill the registers.
// Inputs are taken in chunks: a group's weights of one chunk stay in the first-level cache while all rows take them.
// Between two chunks a row's sums lie where its outputs go, which changes no bit.
//
// Memory is not idle: what a chunk's first tile reads is fetched evenly while all tiles of the chunks before compute.
// (Of many hundred rows only half of it is: there the products take longer than reading by far.)
// Fetched by the first tile alone, all that the others compute would come on top of the time of reading.
#include <immintrin.h>

#include "linear.h"
#include "prefetch.h"
#include "simd.h"

namespace specgrove {
namespace {

constexpr int kMaxTileRows = 6;
constexpr int64_t kLanes = 8;             // floats of a vector
constexpr int64_t kMaxChunkInputs = 320;  // a multiple of kInputStep

// 8 outputs' weights as floats. A step is what lies side by side of each output; kPlace is an input's place in it.
template <typename T>
struct Packed;

template <>
struct Packed<float> {
  static constexpr int64_t kInputs = 1;
  template <int kPlace>
  static __m256 weights(const char* packed) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(packed));
  }
};

template <>
struct Packed<Float16> {
  static constexpr int64_t kInputs = 1;
  template <int kPlace>
  static __m256 weights(const char* packed) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(packed)));
  }
};

template <>
struct Packed<BFloat16> {
  static constexpr int64_t kInputs = 2;
  template <int kPlace>
  static __m256 weights(const char* packed) {
    const auto* const pairs = reinterpret_cast<const __m256i*>(packed);
    if constexpr (kPlace == 0) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(pairs), 16));
    __m256 words;  // no mask, which would take a register: the sums of six rows leave none
    asm("vxorps %0, %0, %0\n\tvpblendw $0xaa, %1, %0, %0" : "=&x"(words) : "m"(*pairs));
    return words;
  }
};

// Some rows by some outputs of a group, over one chunk of inputs.
struct Panel {
  const char* packed;  // first output's
  const float* x;      // first row's first input
  int64_t x_stride;
  int64_t num_steps;
  const float* before;  // sums of the chunks before, or biases, which all rows share
  int64_t before_stride;
  float* sums;
  int64_t sums_stride;
  const char* fetched;     // from here on, kFar ahead, while the products are made
  int64_t steps_per_line;  // how many steps fetch one
};

// The products of one of a step's inputs.
template <typename T, int kPlace, int kRows, int kVecs>
inline void add_input(const char* packed, const float* const* x, int64_t input, __m256 (*sums)[kVecs]) {
  constexpr int64_t kVecBytes = kLanes * Packed<T>::kInputs * sizeof(T);
  if constexpr (kRows < kVecs) {  // what there is less of stays in registers
    __m256 inputs[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) inputs[r] = _mm256_broadcast_ss(x[r] + input);
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) {
      const __m256 weights = Packed<T>::template weights<kPlace>(packed + v * kVecBytes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) add_product(sums[r][v], weights, inputs[r]);
    }
  } else {
    __m256 weights[kVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) weights[v] = Packed<T>::template weights<kPlace>(packed + v * kVecBytes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m256 inputs = _mm256_broadcast_ss(x[r] + input);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) add_product(sums[r][v], weights[v], inputs);
    }
  }
}

// kIsFirst: the weights aren't in the first-level cache yet. All of a group's outputs: there is no other tile.
template <typename T, int kRows, int kVecs, bool kIsFirst>
void multiply(const Panel& panel) {
  constexpr int64_t kInputs = Packed<T>::kInputs, kStepBytes = kGroup * kInputs * sizeof(T);
  __m256 sums[kRows][kVecs];
  const float* x[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    x[r] = panel.x + r * panel.x_stride;
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) sums[r][v] = _mm256_loadu_ps(panel.before + r * panel.before_stride + v * kLanes);
  }
  const char *packed = panel.packed, *fetched = panel.fetched;
  int64_t num_till_line = 1;
  for (int64_t step = 0; step < panel.num_steps; ++step, packed += kStepBytes) {
    if constexpr (kIsFirst) {
#pragma GCC unroll 2
      for (int64_t byte = 0; byte < kStepBytes; byte += kCacheLine) prefetch_near(packed + byte);
    }
    if constexpr (kVecs * kLanes == kGroup) {
#pragma GCC unroll 2
      for (int64_t byte = 0; byte < kStepBytes; byte += kCacheLine) prefetch_far(packed + byte);
    } else if (--num_till_line == 0) {
      prefetch_far(fetched);
      fetched += kCacheLine;
      num_till_line = panel.steps_per_line;
    }
    add_input<T, 0, kRows, kVecs>(packed, x, step * kInputs, sums);
    if constexpr (kInputs == 2) add_input<T, 1, kRows, kVecs>(packed, x, step * kInputs + 1, sums);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) _mm256_storeu_ps(panel.sums + r * panel.sums_stride + v * kLanes, sums[r][v]);
  }
}

// A whole group. The sums of one or two rows leave room for all of its outputs, else it is one block after the other.
template <typename T, int kRows, bool kIsFirst>
void multiply_group(Panel panel) {
  if constexpr (kRows <= 2) {
    multiply<T, kRows, kGroup / kLanes, kIsFirst>(panel);
  } else {
    multiply<T, kRows, kBlock / kLanes, kIsFirst>(panel);
    panel.packed += kBlock * Packed<T>::kInputs * sizeof(T);
    panel.fetched += panel.num_steps / panel.steps_per_line * kCacheLine;
    panel.before += kBlock;
    panel.sums += kBlock;
    multiply<T, kRows, kBlock / kLanes, false>(panel);
  }
}

template <typename T, bool kIsFirst>
void multiply_rows(int64_t num_rows, const Panel& panel) {
  switch (num_rows) {
    case 1:
      return multiply_group<T, 1, kIsFirst>(panel);
    case 2:
      return multiply_group<T, 2, kIsFirst>(panel);
    case 3:
      return multiply_group<T, 3, kIsFirst>(panel);
    case 4:
      return multiply_group<T, 4, kIsFirst>(panel);
    case 5:
      return multiply_group<T, 5, kIsFirst>(panel);
    default:
      return multiply_group<T, kMaxTileRows, kIsFirst>(panel);
  }
}

// The next tile's rows. Sums of few rows wait for each other: one row costs nearly as much as two, three or four as
// five.
inline int64_t next_tile(int64_t num_rows_left) {
  static_assert(kMaxTileRows == 6, "the numbers below are for six");
  if (num_rows_left <= kMaxTileRows) return num_rows_left;
  const bool leaves_few = num_rows_left == 7 || num_rows_left == 9 || num_rows_left == 10;
  return leaves_few ? kMaxTileRows - 1 : kMaxTileRows;
}

// One group by all rows, tile by tile.
template <typename T>
void group_of(const LinearTile& tile, const char* packed, const float* bias, float* out, int64_t out_stride) {
  constexpr int64_t kInputs = Packed<T>::kInputs;
  const int64_t num_chunks = (tile.depth + kMaxChunkInputs - 1) / kMaxChunkInputs;
  const int64_t chunk_inputs = round_up((tile.depth + num_chunks - 1) / num_chunks, kInputStep);
  const int64_t num_tiles = (tile.num_rows + kMaxTileRows - 1) / kMaxTileRows;
  constexpr int64_t kBlockStepBytes = kBlock * kInputs * sizeof(T);  // a line, or half of one
  const int64_t steps_per_line = num_tiles * kCacheLine / kBlockStepBytes;
  for (int64_t input = 0; input < tile.depth; input += chunk_inputs) {
    const int64_t num_left = tile.depth - input, num_inputs = num_left < chunk_inputs ? num_left : chunk_inputs;
    for (int64_t i = 0, row = 0, end; i < num_tiles; ++i, row = end) {
      end = row + next_tile(tile.num_rows - row);
      float* const sums = out + row * out_stride;
      const char* const weights = packed + input * kGroup * sizeof(T);
      const Panel panel{weights,
                        static_cast<const float*>(tile.x) + row * tile.x_stride + input,
                        tile.x_stride,
                        num_inputs / kInputs,
                        input == 0 ? bias : sums,
                        input == 0 ? 0 : out_stride,
                        sums,
                        out_stride,
                        weights + num_inputs * kGroup * sizeof(T) * i / num_tiles,
                        steps_per_line};
      i == 0 ? multiply_rows<T, true>(end - row, panel) : multiply_rows<T, false>(end - row, panel);
    }
  }
}

// The group that is cut off at its end: its sums need more room than its outputs have.
template <typename T>
void cut_group_of(const LinearTile& tile, const char* packed, const float* bias, float* out, int64_t num_outputs) {
  float sums[kMaxTileRows * kGroup];
  for (int64_t row = 0; row < tile.num_rows; row += kMaxTileRows) {
    LinearTile rows = tile;
    rows.x = static_cast<const float*>(tile.x) + row * tile.x_stride;
    rows.num_rows = tile.num_rows - row < kMaxTileRows ? tile.num_rows - row : kMaxTileRows;
    group_of<T>(rows, packed, bias, sums, kGroup);
    for (int64_t r = 0; r < rows.num_rows; ++r) {
      for (int64_t i = 0; i < num_outputs; ++i) out[(row + r) * tile.out_stride + i] = sums[r * kGroup + i];
    }
  }
}

template <typename T>
void tile_of(const LinearTile& tile) {
  for (int64_t group = 0; group < tile.num_groups; ++group) {
    const char* const packed = static_cast<const char*>(tile.packed) + group * tile.group_bytes;
    const float* const bias = tile.bias + group * kGroup;
    float* const out = tile.out + group * kGroup;
    const int64_t num_left = tile.num_outputs - group * kGroup;
    if (num_left < kGroup) {
      cut_group_of<T>(tile, packed, bias, out, num_left);
    } else {
      group_of<T>(tile, packed, bias, out, tile.out_stride);
    }
  }
}

}  // namespace

void linear_tile_avx2(DType dtype, const LinearTile& tile) {
  switch (dtype) {
    case DType::kFloat32:
      return tile_of<float>(tile);
    case DType::kBFloat16:
      return tile_of<BFloat16>(tile);
    case DType::kFloat16:
      return tile_of<Float16>(tile);
  }
}

}  // namespace specgrove
