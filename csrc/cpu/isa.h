// Which instructions the kernels use: the best the processor has, unless a test asks for less.
#pragma once

namespace specgrove {

enum class Isa { kPlain, kAvx512 };

Isa best_isa();
Isa current_isa();
void set_isa(Isa isa);  // must not be better than best_isa()

}  // namespace specgrove
