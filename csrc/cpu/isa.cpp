#include "isa.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace specgrove {
namespace {

constexpr const char* kNames[] = {"plain", "avx2", "avx512", "amx", "amx_twin"};
constexpr int kNumNames = 5;

Isa best_vector_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16") &&
      __builtin_cpu_supports("avx512vnni")) {
    return Isa::kAvx512;
  }
  // Processors with AVX2 have F16C.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kPlain;
}

bool processor_has_amx() {
#if defined(__x86_64__) && defined(__linux__)
  return best_vector_isa() == Isa::kAvx512 && __builtin_cpu_supports("amx-tile") &&
         __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8");
#else
  return false;
#endif
}

// Tiles are 8 KiB of state, which a process of Linux must ask for. Threads that are there already may use them too.
std::string ask_for_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0) return "";
  const int error = errno;
  if (error == ENOSPC) return "a thread has a signal stack that is too small to save tiles on";
  return std::string("the system does not allow it: ") + std::strerror(error);
#else
  return "";
#endif
}

Isa best_isa() {
  static const Isa best = processor_has_amx() && amx_refusal().empty() ? Isa::kAmx : best_vector_isa();
  return best;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{best_isa()};
  return isa;
}

void check_runs_here(Isa isa) {
  if (isa == Isa::kAmxTwin || isa <= best_isa()) return;
  const std::string name = kNames[static_cast<int>(isa)];
  if (isa == Isa::kAmx && processor_has_amx()) throw std::invalid_argument(name + " can't be used: " + amx_refusal());
  throw std::invalid_argument("this processor lacks the instructions " + name);
}

}  // namespace

const std::string& amx_refusal() {
  static const std::string refusal = processor_has_amx() ? ask_for_tiles() : "";
  return refusal;
}

Isa current_isa() { return chosen().load(std::memory_order_relaxed); }

Isa vector_isa() {
  static const Isa best = best_vector_isa();
  const Isa isa = current_isa();
  return isa < best ? isa : best;
}

const char* current_isa_name() { return kNames[static_cast<int>(current_isa())]; }

void set_isa(const std::string& name) {
  for (int i = 0; i < kNumNames; ++i) {
    if (name != kNames[i]) continue;
    check_runs_here(static_cast<Isa>(i));
    chosen().store(static_cast<Isa>(i));
    return;
  }
  throw std::invalid_argument("isa must be 'plain', 'avx2', 'avx512', 'amx' or 'amx_twin', got '" + name + "'");
}

}  // namespace specgrove
