#include "linear_tiles_of.h"

namespace specgrove {

void linear_tiles_amx(const TiledLinear& linear) { linear_tiles_of(linear); }

}  // namespace specgrove
