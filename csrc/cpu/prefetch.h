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

// For a loop that reads packed weights from front to back, a line at a time: farther ahead than the processor's own
// prefetching reaches.
static inline void prefetch_stream(const char* address) {
  prefetch(address + (32 << 10));
  __builtin_prefetch(address + (4 << 10), 0, 3);
}

}  // namespace specgrove
