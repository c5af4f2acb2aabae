#include "amx_access.h"

#include <cerrno>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace specgrove {
namespace {

#if defined(__x86_64__) && defined(__linux__)

// Bits of CPUID and of XCR0 as Intel's manual numbers them: `__builtin_cpu_supports` mixes the two.
bool processor_has_tiles() {
  constexpr uint32_t kBfloat16 = 1u << 22, kTiles = 1u << 24, kInt8 = 1u << 25, kAll = kBfloat16 | kTiles | kInt8;
  uint32_t a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAll) == kAll;
}

bool system_saves_tiles() {
  constexpr uint32_t kSystemTells = 1u << 27, kTileState = 3u << 17;
  uint32_t a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kSystemTells) == 0) return false;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kTileState) == kTileState;
}

// Tiles are 8 KiB of state, which a process of Linux must ask for. Threads that are there already may use them too.
int request_error() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? 0 : errno;
}

#else

bool processor_has_tiles() { return false; }
bool system_saves_tiles() { return false; }
int request_error() { return 0; }

#endif

}  // namespace

AmxAccess ask_for_amx(bool has_avx512) {
  AmxAccess access{processor_has_tiles(), system_saves_tiles(), has_avx512, 0};
  if (access.is_given()) access.request_error = request_error();
  return access;
}

std::string refusal_of(const AmxAccess& access) {
  if (!access.is_in_processor || access.is_given()) return "";
  if (!access.is_enabled) {
    return "the system has not enabled it: Linux does from 5.16 on, unless a hypervisor or a boot option keeps it off";
  }
  if (!access.has_avx512) return "its kernels need AVX-512 with BF16 and VNNI too, which can't be used";
  if (access.request_error == ENOSPC) return "a thread has a signal stack that is too small to save tiles on";
  return std::string("the system does not allow it: ") + std::strerror(access.request_error);
}

}  // namespace specgrove
