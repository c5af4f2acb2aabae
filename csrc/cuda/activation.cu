// A thread takes numbers of one row, a grid's width apart.
#include "../cpu/activation_functions.h"
#include "device.cuh"
#include "kernel.h"

namespace specgrove::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <typename Function, typename T>
__global__ void __launch_bounds__(kThreads) activate_kernel(const float* x, bool is_gated, int64_t size, T* out) {
  const int64_t row = blockIdx.y;
  const float* const numbers = x + row * size * (is_gated ? 2 : 1);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size; i += gridDim.x * kThreads) {
    const float value = Function()(numbers[i]);
    from_float(is_gated ? value * numbers[size + i] : value, &out[row * size + i]);
  }
}

template <typename Function>
void run(const float* x, bool is_gated, const Tensor& out, Stream stream) {
  with_type(out.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t num_rows = out.shape[0], size = out.shape[1];
    LaunchShape shape;
    shape.grid_x = static_cast<unsigned>((size + kThreads - 1) / kThreads);
    shape.grid_y = static_cast<unsigned>(num_rows);
    shape.num_threads = kThreads;
    launch(activate_kernel<Function, T>, shape, stream, x, is_gated, size, static_cast<T*>(out.address));
  });
}

const Kernel kActivate("Activate", [](OpFields& fields, Stream stream) {
  const Tensor out = fields.table("out", {kAnySize, fields.integer("size")});
  const bool is_gated = fields.truth("is_gated");
  const float* const x = fields.numbers<float>("x", {out.shape[0], out.shape[1] * (is_gated ? 2 : 1)});
  switch (fields.choice("activation", activation_names())) {
    case Activation::kSilu:
      return run<Silu>(x, is_gated, out, stream);
    case Activation::kGelu:
      return run<Gelu>(x, is_gated, out, stream);
    case Activation::kGeluTanh:
      return run<GeluTanh>(x, is_gated, out, stream);
    case Activation::kRelu:
      return run<Relu>(x, is_gated, out, stream);
  }
});

}  // namespace
}  // namespace specgrove::cuda
