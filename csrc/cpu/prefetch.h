// Fetching into the second-level cache what is read soon.
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

}  // namespace specgrove
