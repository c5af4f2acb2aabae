// Which instructions the kernels use: the best the processor has, unless a test asks for less.
#pragma once

#include <string>

namespace specgrove {

enum class Isa { kPlain, kAvx2, kAvx512 };  // worst first; AVX-512 means BF16 and VNNI too

Isa best_isa();
Isa current_isa();
const char* current_isa_name();
// "plain", "avx2" or "avx512". Throws std::invalid_argument for another name and for what the processor lacks.
void set_isa(const std::string& name);

}  // namespace specgrove
