// CUDA's words and the functions of instructions.cuh, on the host: see fibers.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "fibers.h"
#include "products.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define threadIdx (::specgrove::cuda::emulation::thread_index)
#define blockIdx (::specgrove::cuda::emulation::block_index)
#define blockDim (::specgrove::cuda::emulation::block_size)
#define gridDim (::specgrove::cuda::emulation::grid_size)

inline void __syncthreads() { ::specgrove::cuda::emulation::wait_for_block(); }
inline void __syncwarp() { ::specgrove::cuda::emulation::wait_for_warp(); }

namespace specgrove::cuda {

struct alignas(16) Vector16 {
  uint32_t words[4];
};

namespace emulation {

// Every lane publishes a value, sees all lanes' values, and goes on. Places are others at the next collective: who is
// behind still sees these.
template <typename T, typename Function>
inline auto exchange(const T& own, const Function& function) {
  static_assert(sizeof(T) <= kLaneBytes && alignof(T) <= 16);
  unsigned char* const places = lane_places();
  std::memcpy(places + own_lane() * kLaneBytes, &own, sizeof own);
  wait_for_warp();
  return function([places](int lane) -> const T& { return *reinterpret_cast<const T*>(places + lane * kLaneBytes); });
}

inline uint16_t half_of(uint32_t word, int part) { return static_cast<uint16_t>(word >> 16 * part); }

template <typename T>
inline float number(uint32_t word, int part) {
  return to_float(T{half_of(word, part)});
}

// The last lane to come multiplies for all of them.
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], void (*multiply)(unsigned char*)) {
  unsigned char* const places = lane_places();
  auto* const own = reinterpret_cast<Fragments*>(places + own_lane() * kLaneBytes);
  std::memcpy(own->a, a, sizeof a);
  std::memcpy(own->b, b, sizeof b);
  std::memcpy(own->d, d, sizeof d);
  wait_for_warp(multiply, places);
  std::memcpy(d, own->d, sizeof d);
}

inline void load_matrices(uint32_t (&out)[4], const void* row, bool is_transposed) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    throw std::runtime_error("a matrix row must lie at a multiple of 16 bytes");
  struct Loaded {
    uint32_t words[4];
  };
  const Loaded loaded = exchange(row, [&](const auto& of_lane) {
    Loaded found;
    for (int matrix = 0; matrix < 4; ++matrix) {
      const int first = own_lane() / 4, second = own_lane() % 4 * 2;
      if (!is_transposed) {
        std::memcpy(&found.words[matrix], static_cast<const unsigned char*>(of_lane(matrix * 8 + first)) + 2 * second,
                    4);
        continue;
      }
      uint16_t parts[2];
      for (int i = 0; i < 2; ++i) {
        const auto* const bytes = static_cast<const unsigned char*>(of_lane(matrix * 8 + second + i));
        std::memcpy(&parts[i], bytes + 2 * first, 2);
      }
      found.words[matrix] = static_cast<uint32_t>(parts[0]) | static_cast<uint32_t>(parts[1]) << 16;
    }
    return found;
  });
  std::memcpy(out, loaded.words, sizeof out);
}

}  // namespace emulation

inline unsigned char* dynamic_shared() { return emulation::shared_memory(); }

template <typename T>
inline T shuffle(T value, int lane) {
  return emulation::exchange(value, [&](const auto& of_lane) { return of_lane(lane % kWarpSize); });
}
template <typename T>
inline T shuffle_xor(T value, int mask) {
  return shuffle(value, emulation::own_lane() ^ mask);
}
inline bool any_lane(bool value) {
  return emulation::exchange(value, [](const auto& of_lane) {
    bool found = false;
    for (int lane = 0; lane < kWarpSize; ++lane) found = found || of_lane(lane);
    return found;
  });
}

inline void copy_async_16(void* shared, const void* source, bool is_valid = true) {
  emulation::begin_copy(shared, source, 16, is_valid);
}
inline void copy_async_commit() { emulation::commit_copies(); }
template <int kPending>
inline void copy_async_wait() {
  emulation::wait_for_copies(kPending);
}

inline void load_matrices(uint32_t (&out)[4], const void* row) { emulation::load_matrices(out, row, false); }
inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) { emulation::load_matrices(out, row, true); }

inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Float16) {
  emulation::mma(d, a, b, emulation::multiply_float16);
}
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BFloat16) {
  emulation::mma(d, a, b, emulation::multiply_bfloat16);
}

template <typename T>
inline uint32_t add_pairs(uint32_t a, uint32_t b, T) {
  uint32_t sum = 0;
  for (int part = 0; part < 2; ++part) {
    T rounded;
    from_float(emulation::number<T>(a, part) + emulation::number<T>(b, part), &rounded);
    sum |= static_cast<uint32_t>(rounded.bits) << 16 * part;
  }
  return sum;
}

template <typename T>
inline uint32_t pack(float low, float high) {
  T parts[2];
  from_float(low, &parts[0]);
  from_float(high, &parts[1]);
  return static_cast<uint32_t>(parts[0].bits) | static_cast<uint32_t>(parts[1].bits) << 16;
}

inline float fast_exp2(float x) { return std::exp2(x); }

inline Vector16 load_once(const void* source) {
  if (reinterpret_cast<uintptr_t>(source) % 16 != 0)
    throw std::runtime_error("16 bytes must be loaded from a multiple of 16");
  Vector16 loaded;
  std::memcpy(&loaded, source, sizeof loaded);
  return loaded;
}

inline void atomic_max(uint64_t* target, uint64_t value) { *target = *target < value ? value : *target; }
inline uint32_t atomic_add(uint32_t* target, uint32_t value) {
  const uint32_t before = *target;
  *target += value;
  return before;
}
inline void fence() {}

}  // namespace specgrove::cuda
