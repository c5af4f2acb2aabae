// Launching kernels, on a GPU's stream or in the emulator.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef SPECGROVE_EMULATED
#include <functional>
#include <tuple>
#include <utility>

#include "emulation/fibers.h"
#else
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>
#endif

namespace specgrove::cuda {

// A cudaStream_t as Python has it; 0 is the default stream.
using Stream = uintptr_t;

struct LaunchShape {
  unsigned grid_x = 1, grid_y = 1, grid_z = 1;
  unsigned num_threads = 32;
  size_t shared_bytes = 0;
};

#ifdef SPECGROVE_EMULATED

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream, Arguments... arguments) {
  const std::tuple<Parameters...> parameters{static_cast<Parameters>(arguments)...};
  emulation::run_grid(shape.grid_x, shape.grid_y, shape.grid_z, shape.num_threads, shape.shared_bytes,
                      [&] { std::apply(kernel, parameters); });
}

#else

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

constexpr size_t kSharedWithoutAsking = 48 * 1024;

// Does not wait. Allocates nothing, so that it can be captured into a graph.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Stream stream, Arguments... arguments) {
  if (shape.grid_x == 0 || shape.grid_y == 0 || shape.grid_z == 0) return;
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (shape.shared_bytes > kSharedWithoutAsking) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          "a kernel's shared memory");
  }
  auto run = [&](Parameters... parameters) {
    void* pointers[] = {&parameters...};
    check(cudaLaunchKernel(function, dim3(shape.grid_x, shape.grid_y, shape.grid_z), dim3(shape.num_threads), pointers,
                           shape.shared_bytes, reinterpret_cast<cudaStream_t>(stream)),
          "launching a kernel");
  };
  run(static_cast<Parameters>(arguments)...);
}

#endif

}  // namespace specgrove::cuda
