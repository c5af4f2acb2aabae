#include "isa.h"

#include <atomic>
#include <stdexcept>

namespace specgrove {
namespace {

constexpr const char* kNames[] = {"plain", "avx2", "avx512"};

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{best_isa()};
  return isa;
}

}  // namespace

Isa best_isa() {
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

Isa current_isa() { return chosen().load(std::memory_order_relaxed); }

const char* current_isa_name() { return kNames[static_cast<int>(current_isa())]; }

void set_isa(const std::string& name) {
  for (int i = 0; i < 3; ++i) {
    if (name != kNames[i]) continue;
    if (static_cast<Isa>(i) > best_isa()) throw std::invalid_argument("this processor lacks the instructions " + name);
    chosen().store(static_cast<Isa>(i));
    return;
  }
  throw std::invalid_argument("isa must be 'plain', 'avx2' or 'avx512', got '" + name + "'");
}

}  // namespace specgrove
