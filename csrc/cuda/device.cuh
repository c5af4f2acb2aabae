// What kernels are written with: CUDA's own words, and functions around the instructions that have none.
//
// Kernels are compiled twice: by nvcc for GPUs, and as plain C++ for the emulator (emulation/device.h), which runs the
// same sources thread by thread on the host, so that they are tested where there is no GPU. So a kernel uses no CUDA
// function but those here.
#pragma once

#include <cstdint>

#include "../cpu/number_types.h"

namespace specgrove::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

}  // namespace specgrove::cuda

#ifdef SPECGROVE_EMULATED
#include "emulation/device.h"
#else
#include "instructions.cuh"
#endif

namespace specgrove::cuda {

// Sum over the lanes of a warp, in one order: all lanes get the same bits.
__device__ inline float warp_sum(float value) {
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) value += shuffle_xor(value, distance);
  return value;
}

template <typename T>
__device__ inline T warp_max(T value) {
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const T other = shuffle_xor(value, distance);
    value = value < other ? other : value;
  }
  return value;
}

}  // namespace specgrove::cuda
