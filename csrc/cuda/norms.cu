#include <cmath>

#include "block_sum.cuh"
#include "device.cuh"
#include "norms.h"

namespace specgrove::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(RmsNorm norm) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * norm.size;
  float* const residual = norm.residual + first;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < norm.size; i += kThreads) {
    float value = residual[i];
    if (norm.delta != nullptr) {
      value += norm.delta[first + i];
      residual[i] = value;
    }
    squares += value * value;
  }
  const float mean = block_sum<kThreads>(squares) / static_cast<float>(norm.size);
  const float factor = 1.0f / sqrtf(mean + norm.eps);
  T* const out = static_cast<T*>(norm.out) + first;
  for (int64_t i = threadIdx.x; i < norm.size; i += kThreads)
    from_float(residual[i] * factor * norm.weight[i], &out[i]);
}

}  // namespace

void rms_norm(const RmsNorm& norm, Stream stream) {
  with_type(norm.out_dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    LaunchShape shape;
    shape.grid_x = static_cast<unsigned>(norm.num_rows);
    shape.num_threads = kThreads;
    shape.shared_bytes = kBlockSumBytes;
    launch(rms_norm_kernel<T>, shape, stream, norm);
  });
}

}  // namespace specgrove::cuda
