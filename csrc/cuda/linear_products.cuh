// What one warp of a linear multiplies: its 32 outputs' weights in a chunk of 64 inputs with all rows of the block.
// Scales are applied in float32, to sums of products with codes, which are exact in 16 bits; mins to sums of inputs,
// which come from a product with ones.
#pragma once

#include "device.cuh"
#include "small_linear.h"

namespace specgrove::cuda {

constexpr int kPieceBytes = 512;  // 16 bytes of each lane

template <typename T>
struct Magic;  // a number of T whose lower 7 bits count ones, and bit 7 its double or 128 more
template <>
struct Magic<Float16> {
  static constexpr uint32_t kBase = 0x64006400u, kOne = 0x3c003c00u;
};
template <>
struct Magic<BFloat16> {
  static constexpr uint32_t kBase = 0x43004300u, kOne = 0x3f803f80u;
};

// A step of 16 x 16 weights from a lane's words: one for 4 bits, two for 8, four for 16.
template <typename T, int kBits>
__device__ inline void expand(const uint32_t* words, uint32_t (&a)[4]) {
  constexpr uint32_t kBase = Magic<T>::kBase, kSign = 0x80008000u;
  for (int i = 0; i < 4; ++i) {
    if constexpr (kBits == 16) {
      a[i] = words[i];
    } else if constexpr (kBits == 8) {
      const uint32_t word = words[i / 2] >> 8 * (i % 2);
      a[i] = add_pairs((word & 0x007f007fu) | kBase, (word & 0x00800080u) | kBase | kSign, T{});
    } else {
      a[i] = add_pairs((words[0] >> 4 * i & 0x000f000fu) | kBase, kBase | kSign, T{});
    }
  }
}

// A lane's weights of half a chunk, by tile of 16 outputs and step of 16 inputs.
template <typename T, int kBits>
__device__ inline void load_weights(const unsigned char* pieces, int half, uint32_t (&a)[2][2][4]) {
  constexpr int kPieces = kBits / 4;  // of a tile
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const unsigned char* const piece = pieces + tile * kPieces * kPieceBytes;
    if constexpr (kBits == 16) {
      for (int step = 0; step < 2; ++step) {
        const Vector16 words = *reinterpret_cast<const Vector16*>(piece + (half * 2 + step) * kPieceBytes);
        expand<T, kBits>(words.words, a[tile][step]);
      }
    } else if constexpr (kBits == 8) {
      const Vector16 words = *reinterpret_cast<const Vector16*>(piece + half * kPieceBytes);
      for (int step = 0; step < 2; ++step) expand<T, kBits>(words.words + 2 * step, a[tile][step]);
    } else {
      const auto* const words = reinterpret_cast<const uint32_t*>(piece) + 2 * half;
      for (int step = 0; step < 2; ++step) expand<T, kBits>(words + step, a[tile][step]);
    }
  }
}

// Scales of a chunk in shared memory: of every sub-chunk that has its own, eight places of one or two pieces of 16
// bytes, for four outputs 8 apart each.
struct ChunkScales {
  int log_subs;    // 1, 2 or 4 sub-chunks
  int log_pieces;  // two where mins take as much as scales
  bool are_half;

  __device__ int num_pieces() const { return 8 << log_subs << log_pieces; }
};

// Of a lane's four outputs.
template <bool kHasMins>
__device__ inline void load_scales(const ChunkScales& scales, const unsigned char* place, float (&scale)[4],
                                   float (&min)[4]) {
  const Vector16 first = *reinterpret_cast<const Vector16*>(place);
  if (kHasMins && scales.are_half) {
    for (int i = 0; i < 4; ++i) {
      scale[i] = to_float(Float16{static_cast<uint16_t>(first.words[i / 2] >> 16 * (i % 2))});
      min[i] = to_float(Float16{static_cast<uint16_t>(first.words[2 + i / 2] >> 16 * (i % 2))});
    }
    return;
  }
  for (int i = 0; i < 4; ++i) scale[i] = bits_to_float(first.words[i]);
  if constexpr (kHasMins) {
    const Vector16 second = *reinterpret_cast<const Vector16*>(place + 16);
    for (int i = 0; i < 4; ++i) min[i] = bits_to_float(second.words[i]);
  }
}

template <int kRowTiles>
using LinearSums = float[kRowTiles][2][4];  // [8 rows][16 outputs][of a lane, as mma has them]

// Adds a chunk's products: weights, rows and scales are in shared memory, weights and rows at the lane's own 16 bytes.
template <typename T, int kBits, bool kHasMins, int kRowTiles>
__device__ inline void add_products(const unsigned char* weights, const unsigned char* rows,
                                    const unsigned char* scale_places, const ChunkScales& scales,
                                    LinearSums<kRowTiles>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, quad = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t a[2][2][4];
    load_weights<T, kBits>(weights, half, a);
    const unsigned char* const own_rows = rows + half * kPieceBytes;
    if constexpr (kBits == 16) {
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        const Vector16 words = *reinterpret_cast<const Vector16*>(own_rows + r * 2 * kPieceBytes);
        for (int step = 0; step < 2; ++step) {
          const uint32_t b[2] = {words.words[2 * step], words.words[2 * step + 1]};
          for (int tile = 0; tile < 2; ++tile) mma(sums[r][tile], a[tile][step], b, T{});
        }
      }
    } else {
      // Lanes of two quads hold 16 inputs of the 32: where those have scales of their own, the others count as zeros.
      const int num_parts = scales.log_subs == 2 ? 2 : 1;
      for (int part = 0; part < num_parts; ++part) {
        const uint32_t mask = num_parts == 1 || quad / 2 == part ? 0xffffffffu : 0u;
        const int sub = scales.log_subs == 0 ? 0 : half * num_parts + part;
        float scale[4], min[4];
        load_scales<kHasMins>(scales, scale_places + ((sub * 8 + lane / 4) << scales.log_pieces) * 16, scale, min);
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          const Vector16 words = *reinterpret_cast<const Vector16*>(own_rows + r * 2 * kPieceBytes);
          float products[2][4] = {}, inputs[4] = {};
          for (int step = 0; step < 2; ++step) {
            const uint32_t b[2] = {words.words[2 * step] & mask, words.words[2 * step + 1] & mask};
            for (int tile = 0; tile < 2; ++tile) mma(products[tile], a[tile][step], b, T{});
            if constexpr (kHasMins) {
              constexpr uint32_t kOne = Magic<T>::kOne;
              const uint32_t ones[4] = {kOne, kOne, kOne, kOne};
              mma(inputs, ones, b, T{});
            }
          }
          for (int tile = 0; tile < 2; ++tile) {
            for (int i = 0; i < 4; ++i) {
              float& sum = sums[r][tile][i];
              sum = fmaf(scale[tile * 2 + i / 2], products[tile][i], sum);
              if constexpr (kHasMins) sum = fmaf(min[tile * 2 + i / 2], inputs[i], sum);
            }
          }
        }
      }
    }
  }
}

}  // namespace specgrove::cuda
