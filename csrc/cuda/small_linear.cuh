// The kernel behind small_linear.h, in two forms. Either a block has 32 outputs, and each of its warps a slice of the
// inputs: for few rows. Or a block's warps have 32 outputs each and share the rows, which then are fetched a quarter as
// often: for many. Inputs are cut into the same slices in both, and these added up in the same order: the same bits.
#pragma once

#include "linear_products.cuh"
#include "small_linear.h"

namespace specgrove::cuda {

// A ring of stages in shared memory. Each holds a chunk of weights (and scales) of every warp, copied by the lanes that
// multiply them, and of the rows: one for all warps, or one for each.
template <int kBits, int kRowTiles, bool kIsWide>
struct LinearStage {
  static constexpr int kWeightPieces = kBits / 2;
  static constexpr int kRowPieces = 2 * kRowTiles;
  static constexpr int kScaleBytes = kBits == 16 ? 0 : 1024;
  static constexpr int kScales = kWeightPieces * kPieceBytes, kOwnRows = kScales + kScaleBytes;
  static constexpr int kOwnBytes = kOwnRows + (kIsWide ? 0 : kRowPieces * kPieceBytes);
  static constexpr int kSharedRows = kLinearWarps * kOwnBytes;
  static constexpr int kBytes = kSharedRows + (kIsWide ? kRowPieces * kPieceBytes : 0);
  // Of the slices before: in registers, unless those are full.
  static constexpr bool kHasTotals = kIsWide && kBits != 16 && kRowTiles == 8;
  static constexpr int kRegionBytes = kRowTiles * 8 * kLinearOutputs * 4, kAllRegions = kLinearWarps * kRegionBytes;
  // So that two blocks share a processor of compute capability 9.0, and nearly always one of 8.0.
  static constexpr int kFitting = (kHasTotals ? 96 * 1024 - kAllRegions : 80 * 1024) / kBytes;
  static constexpr int kDepth = kFitting < 2 ? 2 : kFitting > 6 ? 6 : kFitting;
  static constexpr int kRingBytes = kDepth * kBytes, kSharedBytes = kRingBytes + (kHasTotals ? kAllRegions : 0);
  static_assert(kSharedBytes <= 99 * 1024, "what compute capability 8.6 and 8.9 have");
  static_assert(kRingBytes >= kAllRegions, "sums take the ring's place");
};

template <typename T, int kBits, bool kHasMins, int kRowTiles, bool kIsWide>
__global__ void __launch_bounds__(kLinearWarps* kWarpSize, 2)
    small_linear_kernel(SmallLinear p, LinearGrid grid, int64_t first_row) {
  using Stage = LinearStage<kBits, kRowTiles, kIsWide>;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int quad = lane % 4;
  first_row += static_cast<int64_t>(blockIdx.x) * kLinearMaxRows;
  const int num_rows =
      static_cast<int>(p.num_rows - first_row < kLinearMaxRows ? p.num_rows - first_row : kLinearMaxRows);
  const int64_t num_groups_of_outputs = (p.out_features + kLinearOutputs - 1) / kLinearOutputs;
  const int64_t wanted = kIsWide ? static_cast<int64_t>(blockIdx.y) * kLinearWarps + warp : blockIdx.y;
  const bool has_outputs = wanted < num_groups_of_outputs;
  const int64_t outputs = has_outputs ? wanted : num_groups_of_outputs - 1;

  const int num_chunks = static_cast<int>((p.in_features + kChunk - 1) / kChunk);
  const int num_slices = p.num_splits * kLinearWarps;
  const auto first_chunk_of = [&](int slice) {
    return static_cast<int>(static_cast<int64_t>(num_chunks) * slice / num_slices);
  };
  int slice = static_cast<int>(blockIdx.z) * grid.slices_per_block + (kIsWide ? 0 : warp);
  const int first_chunk = first_chunk_of(slice);
  const int end_chunk = first_chunk_of(slice + (kIsWide ? grid.slices_per_block : 1));

  const auto* const weight = static_cast<const unsigned char*>(p.weight) +
                             outputs * num_chunks * Stage::kWeightPieces * kPieceBytes + lane * 16;
  const auto* const x = static_cast<const T*>(p.x) + (first_row + lane / 4) * p.in_features + quad * 8;
  const ChunkScales scales{p.group_size % 64 == 0   ? 0
                           : p.group_size % 32 == 0 ? 1
                                                    : 2,
                           kHasMins && !p.has_half_scales ? 1 : 0, p.has_half_scales};
  const auto* const packed_scales =
      static_cast<const unsigned char*>(p.scales) + ((outputs * p.num_groups * 8) << scales.log_pieces) * 16;
  const auto own_stage = [&](int chunk) {
    return dynamic_shared() + (chunk - first_chunk) % Stage::kDepth * Stage::kBytes + warp * Stage::kOwnBytes;
  };
  const auto rows_of = [&](int chunk) {
    return own_stage(chunk) + (kIsWide ? Stage::kSharedRows - warp * Stage::kOwnBytes : Stage::kOwnRows);
  };

  const auto load = [&](int chunk) {
    if (chunk < end_chunk) {
      unsigned char* const stage = own_stage(chunk);
      const unsigned char* const source = weight + static_cast<int64_t>(chunk) * Stage::kWeightPieces * kPieceBytes;
#pragma unroll
      for (int i = 0; i < Stage::kWeightPieces; ++i)
        copy_async_16(stage + i * kPieceBytes + lane * 16, source + i * kPieceBytes);
#pragma unroll
      for (int i = 0; i < Stage::kRowPieces; i += kIsWide ? kLinearWarps : 1) {
        const int piece = i + (kIsWide ? warp : 0), input = chunk * kChunk + piece % 2 * 32;
        const bool is_valid = piece / 2 * 8 + lane / 4 < num_rows && input + quad * 8 < p.in_features;
        const T* const row = x + piece / 2 * 8 * p.in_features + input;
        copy_async_16(rows_of(chunk) + piece * kPieceBytes + lane * 16, is_valid ? row : static_cast<const T*>(p.x),
                      is_valid);
      }
      if constexpr (kBits != 16) {
        for (int i = lane; i < scales.num_pieces(); i += kWarpSize) {
          const int sub = i >> 3 >> scales.log_pieces, within = i & ((8 << scales.log_pieces) - 1);
          const int sixteenths = chunk * (kChunk / 16) + (sub << 2 >> scales.log_subs);
          const int found = static_cast<int>(static_cast<uint64_t>(sixteenths) * grid.group_factor >> 32);
          const int64_t group = found < p.num_groups ? found : p.num_groups - 1;
          copy_async_16(stage + Stage::kScales + i * 16,
                        packed_scales + ((group * 8 << scales.log_pieces) + within) * 16);
        }
      }
    }
    copy_async_commit();  // empty ones too, so that groups count chunks
  };

  // [row][output]: of a warp's slice, or of its outputs.
  auto* const regions = reinterpret_cast<float*>(dynamic_shared() + (Stage::kHasTotals ? Stage::kRingBytes : 0));
  constexpr int kRegion = Stage::kRegionBytes / 4;
  LinearSums<kRowTiles> sums = {}, totals = {};  // of a slice; of the slices before it
  const auto for_each_sum = [&](const auto& function) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      for (int tile = 0; tile < 2; ++tile) {
        for (int i = 0; i < 4; ++i) {
          const int row = r * 8 + quad * 2 + i % 2, output = tile * 16 + lane / 4 + i / 2 * 8;
          function(sums[r][tile][i], totals[r][tile][i], regions[warp * kRegion + row * kLinearOutputs + output]);
        }
      }
    }
  };
  if constexpr (Stage::kHasTotals) for_each_sum([](float&, float&, float& place) { place = 0.0f; });
  const auto end_slice = [&] {
    for_each_sum([](float& sum, float& total, float& place) {
      (Stage::kHasTotals ? place : total) += sum;
      sum = 0.0f;
    });
  };
#pragma unroll
  for (int i = 0; i < Stage::kDepth - 1; ++i) load(first_chunk + i);
  int slice_end = first_chunk;
  for (int chunk = first_chunk; chunk < end_chunk; ++chunk) {
    copy_async_wait<Stage::kDepth - 2>();
    // All have what others copied for them, and have read the stage that is filled next.
    if constexpr (kIsWide) {
      __syncthreads();
      if (chunk == slice_end) {
        end_slice();
        while (slice_end == chunk) slice_end = first_chunk_of(++slice);
      }
    } else {
      __syncwarp();
    }
    load(chunk + Stage::kDepth - 1);
    const unsigned char* const stage = own_stage(chunk);
    add_products<T, kBits, kHasMins, kRowTiles>(stage + lane * 16, rows_of(chunk) + lane * 16, stage + Stage::kScales,
                                                scales, sums);
  }
  end_slice();
  copy_async_wait<0>();
  __syncthreads();

  if constexpr (!Stage::kHasTotals) for_each_sum([](float&, float& total, float& place) { place = total; });
  __syncthreads();
  const auto store = [&](int place, float sum) {
    const int64_t output = outputs * kLinearOutputs + place % kLinearOutputs;
    if (output >= p.out_features) return;
    if (p.bias != nullptr) sum += p.bias[output];
    p.out[(first_row + place / kLinearOutputs) * p.out_features + output] = sum;
  };
  constexpr int kPlaces = kLinearOutputs * kLinearMaxRows, kStep = kIsWide ? kWarpSize : kLinearWarps * kWarpSize;
  const int first_place = kIsWide ? lane : static_cast<int>(threadIdx.x);
  const int end_place = has_outputs ? num_rows * kLinearOutputs : 0, num_parts = static_cast<int>(gridDim.z);
  float* const partials = p.partials + (blockIdx.x * num_groups_of_outputs + outputs) * num_parts * kPlaces;
  for (int place = first_place; place < end_place; place += kStep) {
    float sum = 0.0f;
    if constexpr (kIsWide) {
      sum = regions[warp * kRegion + place];
    } else {
      for (int i = 0; i < kLinearWarps; ++i) sum += regions[i * kRegion + place];
    }
    if (num_parts == 1) {
      store(place, sum);
    } else {
      partials[static_cast<int64_t>(blockIdx.z) * kPlaces + place] = sum;
    }
  }
  if (num_parts == 1) return;

  // The block that comes last adds up what all have left, whichever it is: in one order, split by split.
  fence();
  __syncthreads();
  auto* const shared_count = reinterpret_cast<uint32_t*>(dynamic_shared());
  uint32_t* const counter = p.counters + static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y;
  if (threadIdx.x == 0) *shared_count = atomic_add(counter, 1);
  __syncthreads();
  if (*shared_count != static_cast<uint32_t>(num_parts) - 1) return;
  fence();
  const int parts_per_split = num_parts / p.num_splits;
  for (int place = first_place; place < end_place; place += kStep) {
    float sum = 0.0f;
    for (int part = 0; part < num_parts; part += parts_per_split) {
      float of_split = 0.0f;
      for (int i = 0; i < parts_per_split; ++i) of_split += partials[static_cast<int64_t>(part + i) * kPlaces + place];
      sum += of_split;
    }
    store(place, sum);
  }
  if (threadIdx.x == 0) *counter = 0;
}

}  // namespace specgrove::cuda
