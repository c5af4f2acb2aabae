// Philox4x32-10 (Salmon et al., 2011): random words as a function of a key and a counter.
#pragma once

#include <cstdint>

#include "number_types.h"

namespace specgrove {

// The ten rounds of kCounters counters (counters[i], 0, position) side by side, and the uniform numbers of their four
// words each.
template <int kCounters>
SPECGROVE_ANYWHERE static inline void uniforms_of(uint64_t seed, uint64_t position, const uint32_t* counters,
                                                  float* out) {
  uint32_t c0[kCounters], c1[kCounters], c2[kCounters], c3[kCounters];
  for (int i = 0; i < kCounters; ++i) {
    c0[i] = counters[i];
    c1[i] = 0;
    c2[i] = static_cast<uint32_t>(position);
    c3[i] = static_cast<uint32_t>(position >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kCounters; ++i) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * c0[i], product1 = uint64_t{0xCD9E8D57u} * c2[i];
      c0[i] = static_cast<uint32_t>(product1 >> 32) ^ c1[i] ^ k0;
      c2[i] = static_cast<uint32_t>(product0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<uint32_t>(product1);
      c3[i] = static_cast<uint32_t>(product0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < kCounters; ++i) {
    // 23 bits and a half: exact in float32, and strictly between 0 and 1.
    out[4 * i] = (static_cast<float>(static_cast<int32_t>(c0[i] >> 9)) + 0.5f) * 0x1p-23f;
    out[4 * i + 1] = (static_cast<float>(static_cast<int32_t>(c1[i] >> 9)) + 0.5f) * 0x1p-23f;
    out[4 * i + 2] = (static_cast<float>(static_cast<int32_t>(c2[i] >> 9)) + 0.5f) * 0x1p-23f;
    out[4 * i + 3] = (static_cast<float>(static_cast<int32_t>(c3[i] >> 9)) + 0.5f) * 0x1p-23f;
  }
}

// Of counters from the first on.
template <int kCounters>
SPECGROVE_ANYWHERE static inline void uniforms(uint64_t seed, uint64_t position, uint32_t first_counter, float* out) {
  uint32_t counters[kCounters];
  for (int i = 0; i < kCounters; ++i) counters[i] = first_counter + static_cast<uint32_t>(i);
  uniforms_of<kCounters>(seed, position, counters, out);
}

}  // namespace specgrove
