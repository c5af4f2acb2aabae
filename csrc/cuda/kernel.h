// Kernels that take named fields, so that they need no binding: each .cu file names its own, as the op that it runs.
#pragma once

#include <string>

#include "../op_fields.h"
#include "launch.h"

namespace specgrove::cuda {

// Buffers are tensors here. Throws std::invalid_argument for fields that don't fit; waits for nothing.
using FieldsLauncher = void (*)(OpFields& fields, Stream stream);

// For constants of .cu files.
class Kernel {
 public:
  Kernel(const std::string& name, FieldsLauncher launcher);

  // Null where there is none of this name.
  static FieldsLauncher find(const std::string& name);
};

}  // namespace specgrove::cuda
