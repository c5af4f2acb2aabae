// Whether this process may use AMX. That the processor has it is not enough: the system must save tiles when it changes
// threads, and on Linux each process must ask.
#pragma once

#include <string>

namespace specgrove {

struct AmxAccess {
  bool is_in_processor;  // tiles of bfloat16 and int8, as the processor says
  bool is_enabled;       // by the system, for any process (XCR0)
  bool has_avx512;       // with BF16 and VNNI, enabled too: the kernels of AMX need both
  int request_error;     // of this process, an errno; 0 where it was not refused

  bool is_given() const { return is_in_processor && is_enabled && has_avx512 && request_error == 0; }
};

// Asks for permission where everything else is there.
AmxAccess ask_for_amx(bool has_avx512);
// Why AMX can't be used though the processor has it; else empty.
std::string refusal_of(const AmxAccess& access);

}  // namespace specgrove
