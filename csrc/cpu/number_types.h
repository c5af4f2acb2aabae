// The element types of weights and KV caches, and their conversion to and from float32 (to nearest, ties to even; on
// GPUs by their own instructions, which differ in the bits of NaNs alone).
#pragma once

#include <cstdint>
#include <cstring>

// Functions that kernels on GPUs call too.
#ifdef __CUDACC__
#define SPECGROVE_ANYWHERE __host__ __device__
#else
#define SPECGROVE_ANYWHERE
#endif

namespace specgrove {

enum class DType { kFloat32, kBFloat16, kFloat16 };

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

SPECGROVE_ANYWHERE static inline int64_t size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

SPECGROVE_ANYWHERE static inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
SPECGROVE_ANYWHERE static inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

SPECGROVE_ANYWHERE static inline float to_float(float value) { return value; }
SPECGROVE_ANYWHERE static inline float to_float(BFloat16 value) {
  return bits_to_float(static_cast<uint32_t>(value.bits) << 16);
}
SPECGROVE_ANYWHERE static inline float to_float(Float16 value) {
#ifdef __CUDA_ARCH__
  float converted;
  asm("cvt.f32.f16 %0, %1;" : "=f"(converted) : "h"(value.bits));
  return converted;
#else
  const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Scaling by a power of two is exact, for subnormal numbers too.
  const float scaled = bits_to_float(magnitude << 13) * bits_to_float(0x77800000u);
  return bits_to_float(sign | float_to_bits(scaled));
#endif
}

SPECGROVE_ANYWHERE static inline void from_float(float value, float* out) { *out = value; }
SPECGROVE_ANYWHERE static inline void from_float(float value, BFloat16* out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out->bits) : "f"(value));
#else
  uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    out->bits = static_cast<uint16_t>(bits >> 16 | 0x40u);  // stays a NaN
    return;
  }
  bits += 0x7fffu + (bits >> 16 & 1u);
  out->bits = static_cast<uint16_t>(bits >> 16);
#endif
}
SPECGROVE_ANYWHERE static inline void from_float(float value, Float16* out) {
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(value));
#else
  const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    out->bits = static_cast<uint16_t>(sign | 0x7e00u);
  } else if (magnitude >= 0x477ff000u) {  // rounds to infinity
    out->bits = static_cast<uint16_t>(sign | 0x7c00u);
  } else if (magnitude < 0x38800000u) {  // subnormal: let the float32 adder round
    const float shifted = bits_to_float(magnitude) + 0.5f;
    out->bits = static_cast<uint16_t>(sign | (float_to_bits(shifted) - 0x3f000000u));
  } else {
    magnitude += 0xfffu + (magnitude >> 13 & 1u);
    out->bits = static_cast<uint16_t>(sign | (magnitude - 0x38000000u) >> 13);
  }
#endif
}

// Calls function with a null pointer to the element type.
template <typename Function>
auto with_type(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kBFloat16:
      return function(static_cast<BFloat16*>(nullptr));
    case DType::kFloat16:
      return function(static_cast<Float16*>(nullptr));
    default:
      return function(static_cast<float*>(nullptr));
  }
}

}  // namespace specgrove
