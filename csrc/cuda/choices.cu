// A block takes one row: first the largest scaled logit, then noise for those that can still win with it. Compiled
// without fused multiplications and additions, so that noise has the bits that it has on the CPU.
#include <cmath>

#include "../cpu/choice_key.h"
#include "../cpu/noise.h"
#include "../cpu/philox.h"
#include "../cpu/vector_math.h"
#include "choices.h"
#include "device.cuh"

namespace specgrove::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarpSize, kBatch = 8;

__device__ inline float noise_of(uint64_t seed, uint64_t position, int64_t token_id) {
  float words[4];
  uniforms<1>(seed, position, static_cast<uint32_t>(token_id >> 2), words);
  // Not by an index, which would put them into memory.
  const float low = token_id & 1 ? words[1] : words[0], high = token_id & 1 ? words[3] : words[2];
  return -log_of(-log_of(token_id & 2 ? high : low));
}

// The largest key of all threads, for all of them.
__device__ inline uint64_t block_max(uint64_t key) {
  auto* const keys = reinterpret_cast<uint64_t*>(dynamic_shared());
  key = warp_max(key);
  __syncthreads();  // of an earlier maximum
  if (threadIdx.x % kWarpSize == 0) keys[threadIdx.x / kWarpSize] = key;
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) key = key < keys[warp] ? keys[warp] : key;
  return key;
}

__global__ void __launch_bounds__(kThreads) choose_kernel(Choices choices) {
  const int64_t row = blockIdx.x;
  const float* const logits = choices.logits + row * choices.vocab_size;
  const float temperature = choices.temperatures[row];
  const float factor = temperature == 0.0f ? 1.0f : 1.0f / temperature;
  uint64_t best = 0;
  bool has_nan = false;
  for (int64_t i = threadIdx.x; i < choices.vocab_size; i += kThreads) {
    const float value = logits[i] * factor;
    has_nan = has_nan || value != value;
    if (value == -HUGE_VALF || value != value) continue;
    const uint64_t key = choice_key(value, i);
    best = best < key ? key : best;
  }
  const bool any_nan = block_max(has_nan ? 1 : 0) != 0;
  best = block_max(best);
  if (!any_nan && best != 0 && temperature != 0.0f) {
    const uint64_t seed = choices.seeds[row], position = choices.positions[row];
    const float reached = value_of_key(best) + noise_of(seed, position, token_of_key(best));
    best = 0;
    for (int64_t first = threadIdx.x; first < choices.vocab_size; first += kBatch * kThreads) {
      uint32_t can_win = 0;  // loaded together: one load after the other would take as many times as long
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int64_t i = first + b * kThreads;
        const float value = i < choices.vocab_size ? logits[i] * factor : -HUGE_VALF;
        if (value != -HUGE_VALF && value >= reached - kMaxNoise) can_win |= 1u << b;
      }
      for (int64_t i = first; can_win != 0; i += kThreads, can_win >>= 1) {
        if ((can_win & 1u) == 0) continue;
        const uint64_t key = choice_key(logits[i] * factor + noise_of(seed, position, i), i);
        best = best < key ? key : best;
      }
    }
    best = block_max(best);
  }
  if (threadIdx.x == 0) choices.out[row] = any_nan ? kNotANumber : best == 0 ? kAllBanned : token_of_key(best);
}

__global__ void __launch_bounds__(kThreads)
    take_choices_kernel(int32_t* token_ids, int64_t num_rows, const int64_t* choices) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= num_rows || token_ids[row] >= 0) return;
  const int64_t choice = choices[-1 - token_ids[row]];
  token_ids[row] = choice < 0 ? 0 : static_cast<int32_t>(choice);
}

}  // namespace

void take_choices(int32_t* token_ids, int64_t num_rows, const int64_t* choices, Stream stream) {
  LaunchShape shape;
  shape.grid_x = static_cast<unsigned>((num_rows + kThreads - 1) / kThreads);
  shape.num_threads = kThreads;
  launch(take_choices_kernel, shape, stream, token_ids, num_rows, choices);
}

void choose(const Choices& choices, Stream stream) {
  LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(choices.num_rows);
  shape.num_threads = kThreads;
  shape.shared_bytes = kWarps * sizeof(uint64_t);
  launch(choose_kernel, shape, stream, choices);
}

}  // namespace specgrove::cuda
