// Fetching into the caches what is read soon.
#pragma once

#include <cstdint>

namespace specgrove {

constexpr int64_t kCacheLine = 64;  // bytes

// Not __builtin_prefetch: GCC takes a loop of nothing else for one without effect, and removes it. Not into the first
// level: its few outstanding misses would be taken, and the core would wait for them.
static inline void prefetch(const char* address) {
#if defined(__x86_64__)
  asm volatile("prefetcht1 %0" : : "m"(*address));
#else
  __builtin_prefetch(address, 0, 2);
#endif
}

// For loops that read packed weights from front to back, farther ahead than the processor's own prefetching reaches:
// from memory, and then into the first level.
constexpr int64_t kFar = 32 << 10, kNear = 4 << 10;  // bytes
static inline void prefetch_far(const char* address) { prefetch(address + kFar); }
static inline void prefetch_near(const char* address) { __builtin_prefetch(address + kNear, 0, 3); }

// Both, for a loop that reads each line once.
static inline void prefetch_stream(const char* address) {
  prefetch_far(address);
  prefetch_near(address);
}

}  // namespace specgrove
