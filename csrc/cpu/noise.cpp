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

}  // namespace specgrove
