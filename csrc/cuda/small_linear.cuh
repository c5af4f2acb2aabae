// The kernel behind small_linear.h. A block has 32 outputs and up to 64 rows; its warps, and num_splits blocks, each
// have a slice of the inputs. Each lane copies just what it multiplies into its own ring, in chunks of 64 inputs; only
// scales are shared by a warp. Scales are applied in float32, to sums of products with codes, which are exact in 16
// bits; mins to sums of inputs, which come from a product with ones.
#pragma once

#include "device.cuh"
#include "small_linear.h"

namespace specgrove::cuda {

constexpr int kLinearWarps = 4, kLinearOutputs = 32, kLinearMaxRows = 64, kChunk = 64;

template <int kBits, int kRowTiles>
struct LinearStage {
  static constexpr int kPieces = 2 * kBits / 4;  // of 16 bytes per lane: of the weight, then of the rows, then scales
  static constexpr int kInputBytes = (kPieces + 2 * kRowTiles) * 512;
  static constexpr int kBytes = kInputBytes + (kBits == 16 ? 0 : 1024);
  // For 64 rows two: two blocks then share an H100's processor, and the 99 KiB of compute capability 8.6 and 8.9 do.
  static constexpr int kDepth = kRowTiles == 8 ? 2 : kBits == 16 ? 3 : kBits == 8 ? 4 : 6;
  static constexpr int kSharedBytes = kLinearWarps * kDepth * kBytes;
  static_assert(kSharedBytes <= 99 * 1024);
  static_assert(kDepth * kBytes >= kRowTiles * 1024, "a warp's sums take its ring's place");
};

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

template <typename T, int kBits, int kRowTiles>
__global__ void __launch_bounds__(kLinearWarps* kWarpSize, 2) small_linear_kernel(SmallLinear p, int64_t first_row) {
  using Stage = LinearStage<kBits, kRowTiles>;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int quad = lane % 4;
  first_row += static_cast<int64_t>(blockIdx.x) * kLinearMaxRows;
  const int num_rows =
      static_cast<int>(p.num_rows - first_row < kLinearMaxRows ? p.num_rows - first_row : kLinearMaxRows);
  const int num_chunks = static_cast<int>((p.in_features + kChunk - 1) / kChunk);
  const int num_slices = p.num_splits * kLinearWarps, slice = static_cast<int>(blockIdx.z) * kLinearWarps + warp;
  const int first_chunk = static_cast<int>(static_cast<int64_t>(num_chunks) * slice / num_slices);
  const int end_chunk = static_cast<int>(static_cast<int64_t>(num_chunks) * (slice + 1) / num_slices);
  unsigned char* const ring = dynamic_shared() + warp * Stage::kDepth * Stage::kBytes;

  const auto* const weight = static_cast<const unsigned char*>(p.weight) +
                             static_cast<int64_t>(blockIdx.y) * num_chunks * Stage::kPieces * 512 + lane * 16;
  const auto* const x = static_cast<const T*>(p.x) + (first_row + lane / 4) * p.in_features + quad * 8;
  const int scale_pieces = p.has_mins && !p.has_half_scales ? 2 : 1;
  const int num_subs = kBits == 16 ? 0 : p.group_size % 64 == 0 ? 1 : p.group_size % 32 == 0 ? 2 : 4;  // in a chunk
  const auto* const scales = static_cast<const unsigned char*>(p.scales) +
                             static_cast<int64_t>(blockIdx.y) * p.num_groups * scale_pieces * 128;

  auto load = [&](int chunk) {
    if (chunk < end_chunk) {
      unsigned char* const stage = ring + (chunk - first_chunk) % Stage::kDepth * Stage::kBytes;
      const unsigned char* const source = weight + static_cast<int64_t>(chunk) * Stage::kPieces * 512;
#pragma unroll
      for (int i = 0; i < Stage::kPieces; ++i) copy_async_16(stage + i * 512 + lane * 16, source + i * 512);
#pragma unroll
      for (int i = 0; i < 2 * kRowTiles; ++i) {
        const int input = chunk * kChunk + i % 2 * 32;
        const bool is_valid = i / 2 * 8 + lane / 4 < num_rows && input + quad * 8 < p.in_features;
        const T* const row = x + i / 2 * 8 * p.in_features + input;
        copy_async_16(stage + (Stage::kPieces + i) * 512 + lane * 16, is_valid ? row : static_cast<const T*>(p.x),
                      is_valid);
      }
      if constexpr (kBits != 16) {
        for (int i = lane; i < num_subs * scale_pieces * 8; i += kWarpSize) {
          const int sub = i / (8 * scale_pieces), within = i % (8 * scale_pieces);
          const int found = (chunk * kChunk + sub * (kChunk / num_subs)) / p.group_size;
          const int group = found < p.num_groups ? found : p.num_groups - 1;
          copy_async_16(stage + Stage::kInputBytes + i * 16, scales + (group * 8 * scale_pieces + within) * 16);
        }
      }
    }
    copy_async_commit();  // empty ones too, so that groups count chunks
  };

  float sums[kRowTiles][2][4] = {};
#pragma unroll
  for (int i = 0; i < Stage::kDepth - 1; ++i) load(first_chunk + i);
  for (int chunk = first_chunk; chunk < end_chunk; ++chunk) {
    copy_async_wait<Stage::kDepth - 2>();
    __syncwarp();  // all lanes have their scales, and have read the stage that is filled next
    load(chunk + Stage::kDepth - 1);
    const unsigned char* const stage = ring + (chunk - first_chunk) % Stage::kDepth * Stage::kBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a[2][2][4];  // [tile][step]
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const unsigned char* const piece = stage + lane * 16 + tile * (Stage::kPieces / 2) * 512;
        if constexpr (kBits == 16) {
          for (int step = 0; step < 2; ++step) {
            const Vector16 words = *reinterpret_cast<const Vector16*>(piece + (half * 2 + step) * 512);
            expand<T, kBits>(words.words, a[tile][step]);
          }
        } else if constexpr (kBits == 8) {
          const Vector16 words = *reinterpret_cast<const Vector16*>(piece + half * 512);
          for (int step = 0; step < 2; ++step) expand<T, kBits>(words.words + 2 * step, a[tile][step]);
        } else {
          const auto* const words = reinterpret_cast<const uint32_t*>(piece) + 2 * half;
          for (int step = 0; step < 2; ++step) expand<T, kBits>(words + step, a[tile][step]);
        }
      }
      const unsigned char* const rows = stage + (Stage::kPieces + half) * 512 + lane * 16;
      if constexpr (kBits == 16) {
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          const Vector16 words = *reinterpret_cast<const Vector16*>(rows + r * 1024);
          for (int step = 0; step < 2; ++step) {
            const uint32_t b[2] = {words.words[2 * step], words.words[2 * step + 1]};
            for (int tile = 0; tile < 2; ++tile) mma(sums[r][tile], a[tile][step], b, T{});
          }
        }
      } else {
        // Lanes of two quads hold 16 inputs of the 32: where those have scales of their own, the others count as zeros.
        const int num_parts = num_subs == 4 ? 2 : 1;
        for (int part = 0; part < num_parts; ++part) {
          const uint32_t mask = num_parts == 1 || quad / 2 == part ? 0xffffffffu : 0u;
          const int sub = num_subs == 1 ? 0 : num_subs == 2 ? half : half * 2 + part;
          const unsigned char* const place = stage + Stage::kInputBytes + (sub * 8 + lane / 4) * scale_pieces * 16;
          const Vector16 first = *reinterpret_cast<const Vector16*>(place);
          float scale[4], min[4] = {};
          if (p.has_half_scales) {
            for (int i = 0; i < 4; ++i) {
              scale[i] = to_float(Float16{static_cast<uint16_t>(first.words[i / 2] >> 16 * (i % 2))});
              min[i] = to_float(Float16{static_cast<uint16_t>(first.words[2 + i / 2] >> 16 * (i % 2))});
            }
          } else {
            for (int i = 0; i < 4; ++i) scale[i] = bits_to_float(first.words[i]);
            if (p.has_mins) {
              const Vector16 second = *reinterpret_cast<const Vector16*>(place + 16);
              for (int i = 0; i < 4; ++i) min[i] = bits_to_float(second.words[i]);
            }
          }
#pragma unroll
          for (int r = 0; r < kRowTiles; ++r) {
            const Vector16 words = *reinterpret_cast<const Vector16*>(rows + r * 1024);
            float products[2][4] = {}, inputs[4] = {};
            for (int step = 0; step < 2; ++step) {
              const uint32_t b[2] = {words.words[2 * step] & mask, words.words[2 * step + 1] & mask};
              for (int tile = 0; tile < 2; ++tile) mma(products[tile], a[tile][step], b, T{});
              if (p.has_mins) {
                constexpr uint32_t kOne = Magic<T>::kOne;
                const uint32_t ones[4] = {kOne, kOne, kOne, kOne};
                mma(inputs, ones, b, T{});
              }
            }
            for (int tile = 0; tile < 2; ++tile) {
              for (int i = 0; i < 4; ++i) {
                float& sum = sums[r][tile][i];
                sum = fmaf(scale[tile * 2 + i / 2], products[tile][i], sum);
                if (p.has_mins) sum = fmaf(min[tile * 2 + i / 2], inputs[i], sum);
              }
            }
          }
        }
      }
    }
  }
  copy_async_wait<0>();
  __syncwarp();

  // [row][output], by slices in their order.
  auto* const own = reinterpret_cast<float*>(ring);
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    for (int tile = 0; tile < 2; ++tile) {
      for (int i = 0; i < 4; ++i)
        own[(r * 8 + quad * 2 + i % 2) * kLinearOutputs + tile * 16 + lane / 4 + i / 2 * 8] = sums[r][tile][i];
    }
  }
  __syncthreads();
  const int64_t first_output = static_cast<int64_t>(blockIdx.y) * kLinearOutputs;
  auto store = [&](int place, float sum) {
    const int64_t output = first_output + place % kLinearOutputs;
    if (output >= p.out_features) return;
    if (p.bias != nullptr) sum += p.bias[output];
    p.out[(first_row + place / kLinearOutputs) * p.out_features + output] = sum;
  };
  constexpr int kThreads = kLinearWarps * kWarpSize;
  constexpr int kPlaces = kLinearOutputs * kLinearMaxRows;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y;  // of blocks with the same outputs
  float* const partials = p.partials + group * p.num_splits * kPlaces;
  for (int place = static_cast<int>(threadIdx.x); place < num_rows * kLinearOutputs; place += kThreads) {
    float sum = 0.0f;
    for (int i = 0; i < kLinearWarps; ++i)
      sum += reinterpret_cast<const float*>(dynamic_shared() + i * Stage::kDepth * Stage::kBytes)[place];
    if (p.num_splits == 1) {
      store(place, sum);
    } else {
      partials[static_cast<int64_t>(blockIdx.z) * kPlaces + place] = sum;
    }
  }
  if (p.num_splits == 1) return;

  // The block that comes last adds up what all have left, whichever it is: in one order.
  fence();
  __syncthreads();
  auto* const shared_count = reinterpret_cast<uint32_t*>(dynamic_shared());
  if (threadIdx.x == 0) *shared_count = atomic_add(p.counters + group, 1);
  __syncthreads();
  if (*shared_count != static_cast<uint32_t>(p.num_splits) - 1) return;
  fence();
  for (int place = static_cast<int>(threadIdx.x); place < num_rows * kLinearOutputs; place += kThreads) {
    float sum = 0.0f;
    for (int split = 0; split < p.num_splits; ++split) sum += partials[static_cast<int64_t>(split) * kPlaces + place];
    store(place, sum);
  }
  if (threadIdx.x == 0) p.counters[group] = 0;
}

}  // namespace specgrove::cuda
