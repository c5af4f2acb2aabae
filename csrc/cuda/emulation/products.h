// A warp's product of two matrices by the instruction mma.m16n8k16.
#pragma once

#include <cstdint>

namespace specgrove::cuda::emulation {

// A lane's parts of the matrices, in the layout that instructions.cuh tells.
struct Fragments {
  uint32_t a[4], b[2];
  float d[4];
};

// Adds the product to the lanes' d. places: 32 of kLaneBytes, which begin with the lanes' fragments. Each number of d
// has one order of additions, in float64.
void multiply_bfloat16(unsigned char* places);
void multiply_float16(unsigned char* places);

}  // namespace specgrove::cuda::emulation
