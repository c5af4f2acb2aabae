#include "kernel.h"

#include <map>

namespace specgrove::cuda {
namespace {

std::map<std::string, FieldsLauncher>& launchers() {
  static std::map<std::string, FieldsLauncher> all;
  return all;
}

}  // namespace

Kernel::Kernel(const std::string& name, FieldsLauncher launcher) { launchers()[name] = launcher; }

FieldsLauncher Kernel::find(const std::string& name) {
  const auto found = launchers().find(name);
  return found == launchers().end() ? nullptr : found->second;
}

}  // namespace specgrove::cuda
