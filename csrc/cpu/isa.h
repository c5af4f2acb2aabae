// Which instructions the kernels use: the best that the processor has and the system allows, unless a test asks for
// others.
#pragma once

#include <string>

namespace specgrove {

// Worst first. AVX-512 means BF16 and VNNI too; AMX means its tiles of bfloat16 and int8 beside AVX-512. The twin is
// the kernels of AMX over tiles in plain C++ (tile_twin.h): for tests, on any machine, never chosen by itself.
enum class Isa { kPlain, kAvx2, kAvx512, kAmx, kAmxTwin };

// What is chosen: for kernels that have a form for tiles.
Isa current_isa();
// The best of plain, AVX2 and AVX-512 beside that: for all other kernels, and for what is around the tiles.
Isa vector_isa();
const char* current_isa_name();
// A name as above, in lower case; the twin is "amx_twin". Throws std::invalid_argument for another name and for what
// can't run here.
void set_isa(const std::string& name);
// Why the system does not let this process use the processor's AMX; empty where it does, or where there is none.
const std::string& amx_refusal();

}  // namespace specgrove
