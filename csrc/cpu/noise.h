// Counter-based Gumbel noise: a pure function of (seed, position, token id), the same bits on every path and device.
#pragma once

#include <cstdint>

namespace specgrove {

// Standard Gumbel noise of (seed, position, token id): Philox4x32-10 with key = seed and counter = (token_id / 4, 0,
// position), lane token_id % 4; u = (upper 23 bits + 0.5) * 2^-23; -log(-log(u)) with log_of of vector_math.h.
float gumbel_noise(uint64_t seed, uint64_t position, uint64_t token_id);

constexpr int64_t kNoiseGroup = 64;
constexpr float kMaxNoise = 16.64f;  // -log(-log(1 - 2^-24)), rounded up

// The noise of kNoiseGroup tokens from first_token_id on, which is a multiple of 4.
void noise_of_group(uint64_t seed, uint64_t position, int64_t first_token_id, float* out);

// The noise of any tokens.
void noise_of(uint64_t seed, uint64_t position, const int64_t* token_ids, int64_t count, float* out);

}  // namespace specgrove
