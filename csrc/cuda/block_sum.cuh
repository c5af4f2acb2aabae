// Sums over a block's threads, in one order.
#pragma once

#include "device.cuh"

namespace specgrove::cuda {

constexpr size_t kBlockSumBytes = 32 * sizeof(float);

// All threads get the sum. Uses the first kBlockSumBytes of the block's dynamic shared memory.
template <unsigned kThreads>
__device__ inline float block_sum(float value) {
  auto* const sums = reinterpret_cast<float*>(dynamic_shared());
  value = warp_sum(value);
  __syncthreads();  // of an earlier sum
  if (threadIdx.x % kWarpSize == 0) sums[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float total = 0.0f;
  for (unsigned warp = 0; warp < kThreads / kWarpSize; ++warp) total += sums[warp];
  return total;
}

}  // namespace specgrove::cuda
