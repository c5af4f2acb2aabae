#include "isa.h"

#include <atomic>
#include <stdexcept>

#include "amx_access.h"

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

const AmxAccess& amx_access() {
  static const AmxAccess access = ask_for_amx(best_vector_isa() == Isa::kAvx512);
  return access;
}

Isa best_isa() {
  static const Isa best = amx_access().is_given() ? Isa::kAmx : best_vector_isa();
  return best;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{best_isa()};
  return isa;
}

void check_runs_here(Isa isa) {
  if (isa == Isa::kAmxTwin || isa <= best_isa()) return;
  const std::string name = kNames[static_cast<int>(isa)];
  if (isa == Isa::kAmx && !amx_refusal().empty()) {
    throw std::invalid_argument(name + " can't be used: " + amx_refusal());
  }
  throw std::invalid_argument("this processor lacks the instructions " + name);
}

}  // namespace

const std::string& amx_refusal() {
  static const std::string refusal = refusal_of(amx_access());
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
