#include "noise.h"

#include "clones.h"
#include "philox.h"
#include "vector_math.h"

namespace specgrove {

float gumbel_noise(uint64_t seed, uint64_t position, uint64_t token_id) {
  float words[4];
  uniforms<1>(seed, position, static_cast<uint32_t>(token_id >> 2), words);
  return -log_of(-log_of(words[token_id & 3]));
}

SPECGROVE_CLONES void noise_of_group(uint64_t seed, uint64_t position, int64_t first_token_id, float* out) {
  uniforms<kNoiseGroup / 4>(seed, position, static_cast<uint32_t>(first_token_id >> 2), out);
  for (int64_t i = 0; i < kNoiseGroup; ++i) out[i] = -log_of(-log_of(out[i]));
}

SPECGROVE_CLONES void noise_of(uint64_t seed, uint64_t position, const int64_t* token_ids, int64_t count, float* out) {
  constexpr int kCounters = kNoiseGroup / 4;
  for (int64_t start = 0; start < count; start += kCounters) {
    const int64_t num = count - start < kCounters ? count - start : kCounters;
    uint32_t counters[kCounters] = {};
    float words[4 * kCounters];
    for (int64_t i = 0; i < num; ++i)
      counters[i] = static_cast<uint32_t>(static_cast<uint64_t>(token_ids[start + i]) >> 2);
    uniforms_of<kCounters>(seed, position, counters, words);
    float chosen[kCounters];
    for (int64_t i = 0; i < kCounters; ++i) chosen[i] = words[4 * i + (i < num ? token_ids[start + i] & 3 : 0)];
    for (int64_t i = 0; i < kCounters; ++i) chosen[i] = -log_of(-log_of(chosen[i]));
    for (int64_t i = 0; i < num; ++i) out[start + i] = chosen[i];
  }
}

}  // namespace specgrove
