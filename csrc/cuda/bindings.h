// What the files that bind kernels for GPUs share.
#pragma once

#include "../bindings.h"

namespace specgrove::cuda {

void bind_constants(py::module_& module);
void bind_linear(py::module_& module);

}  // namespace specgrove::cuda
