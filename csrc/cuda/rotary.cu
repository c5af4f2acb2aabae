// A thread takes one row's pair of numbers half a head apart, which are rotated together.
#include "device.cuh"
#include "rotary.h"

namespace specgrove::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <typename T>
__device__ inline void store_pair(float first, float second, T* head, int half, int i) {
  from_float(first, &head[i]);
  from_float(second, &head[i + half]);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) rotate_and_store_kernel(RotateAndStore rotation) {
  const int64_t row = blockIdx.x, slot = rotation.slots[row];
  const int head_dim = rotation.head_dim, half = head_dim / 2;
  const int num_heads = rotation.num_heads, num_kv_heads = rotation.num_kv_heads, all = num_heads + 2 * num_kv_heads;
  if (slot < 0) return;
  const int pair = static_cast<int>(blockIdx.y * kThreads + threadIdx.x), head = pair / half, i = pair % half;
  if (head >= all) return;
  const float* const numbers = rotation.qkv + (row * all + head) * head_dim;
  float first = numbers[i], second = numbers[i + half];
  if (rotation.cos_sin != nullptr && head < num_heads + num_kv_heads) {
    const float* const angles = rotation.cos_sin + static_cast<int64_t>(rotation.positions[row]) * head_dim;
    const float cosine = angles[i], sine = angles[i + half], before = first;
    first = before * cosine - second * sine;
    second = second * cosine + before * sine;
  }
  if (head < num_heads) {
    store_pair(first, second, static_cast<T*>(rotation.queries) + (row * num_heads + head) * head_dim, half, i);
  } else {
    const bool is_key = head < num_heads + num_kv_heads;
    const int kv_head = head - num_heads - (is_key ? 0 : num_kv_heads);
    T* const cache = static_cast<T*>(is_key ? rotation.k_cache : rotation.v_cache);
    store_pair(first, second, cache + (slot * num_kv_heads + kv_head) * head_dim, half, i);
  }
}

}  // namespace

void rotate_and_store(const RotateAndStore& rotation, DType dtype, Stream stream) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    LaunchShape shape;
    const int num_pairs = (rotation.num_heads + 2 * rotation.num_kv_heads) * (rotation.head_dim / 2);
    shape.grid_x = static_cast<unsigned>(rotation.num_rows);
    shape.grid_y = (static_cast<unsigned>(num_pairs) + kThreads - 1) / kThreads;
    shape.num_threads = kThreads;
    launch(rotate_and_store_kernel<T>, shape, stream, rotation);
  });
}

}  // namespace specgrove::cuda
