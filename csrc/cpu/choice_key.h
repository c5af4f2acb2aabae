// A value and its token id as one number: of two values the larger is the larger number, of two equal ones that of the
// lower id. So the order in which candidates come doesn't matter. 0 is less than any.
#pragma once

#include <cstdint>

#include "number_types.h"

namespace specgrove {

constexpr uint32_t kSignBit = 0x80000000u;

SPECGROVE_ANYWHERE static inline uint64_t choice_key(float value, int64_t token_id) {
  const uint32_t bits = float_to_bits(value + 0.0f);  // -0 is 0
  const uint32_t ordered = bits & kSignBit ? ~bits : bits | kSignBit;
  return uint64_t{ordered} << 32 | ~static_cast<uint32_t>(token_id);
}

SPECGROVE_ANYWHERE static inline float value_of_key(uint64_t key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return bits_to_float(ordered & kSignBit ? ordered & ~kSignBit : ~ordered);
}

SPECGROVE_ANYWHERE static inline int64_t token_of_key(uint64_t key) {
  return static_cast<int64_t>(~static_cast<uint32_t>(key));
}

}  // namespace specgrove
