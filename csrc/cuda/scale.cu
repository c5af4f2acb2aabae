// A thread takes numbers of one row, a grid's width apart.
#include "device.cuh"
#include "kernel.h"

namespace specgrove::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) scale_kernel(float factor, int64_t size, T* x) {
  T* const row = x + static_cast<int64_t>(blockIdx.y) * size;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size; i += gridDim.x * kThreads) {
    from_float(to_float(row[i]) * factor, &row[i]);
  }
}

const Kernel kScale("Scale", [](OpFields& fields, Stream stream) {
  const Tensor x = fields.table("x", {kAnySize, kAnySize});
  const float factor = fields.number("factor");
  with_type(x.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    LaunchShape shape;
    shape.grid_x = static_cast<unsigned>((x.shape[1] + kThreads - 1) / kThreads);
    shape.grid_y = static_cast<unsigned>(x.shape[0]);
    shape.num_threads = kThreads;
    launch(scale_kernel<T>, shape, stream, factor, x.shape[1], static_cast<T*>(x.address));
  });
});

}  // namespace
}  // namespace specgrove::cuda
