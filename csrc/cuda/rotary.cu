// From the QKV linear's output to queries, and to keys and values in their slots.
//
// A thread takes one row's pair of numbers half a head apart, which are rotated together.
#include "device.cuh"
#include "kernel.h"

namespace specgrove::cuda {
namespace {

struct RotateAndStore {
  const float* qkv;          // [num_rows, num_heads + 2 num_kv_heads, head_dim]
  const int32_t* positions;  // [num_rows]
  const float* cos_sin;      // [max_positions, head_dim]: cosines, then sines; or null: nothing is rotated
  const int32_t* slots;      // [num_rows]; below 0: a row that only fills the pass, and whose keys go nowhere
  void* k_cache;             // [num_slots, num_kv_heads, head_dim] in dtype
  void* v_cache;
  void* queries;  // [num_rows, num_heads, head_dim] in dtype
  int64_t num_rows;
  int32_t num_heads, num_kv_heads, head_dim;
};

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

// Positions and slots are not checked: that would wait for the device.
const Kernel kRotateStore("RotateStore", [](OpFields& fields, Stream stream) {
  const int64_t num_heads = fields.integer("num_heads"), num_kv_heads = fields.integer("num_kv_heads"),
                head_dim = fields.integer("head_dim"), num_rows = fields.shape("qkv").at(0);
  if (head_dim % 2 != 0) throw std::invalid_argument("heads must be of an even size");
  const Tensor queries = fields.table("queries", {num_rows, num_heads * head_dim}),
               k_cache = fields.table("k_cache", {kAnySize, num_kv_heads, head_dim}),
               v_cache = fields.table("v_cache", {k_cache.shape[0], num_kv_heads, head_dim});
  if (queries.type != k_cache.type || queries.type != v_cache.type) {
    throw std::invalid_argument("queries and caches must be of one dtype");
  }
  fields.leave({"layer"});
  const RotateAndStore rotation{fields.numbers<float>("qkv", {num_rows, (num_heads + 2 * num_kv_heads) * head_dim}),
                                fields.numbers<int32_t>("positions", {num_rows}),
                                fields.numbers_or_null<float>("cos_sin", {kAnySize, head_dim}),
                                fields.numbers<int32_t>("slots", {num_rows}),
                                k_cache.address,
                                v_cache.address,
                                queries.address,
                                num_rows,
                                static_cast<int32_t>(num_heads),
                                static_cast<int32_t>(num_kv_heads),
                                static_cast<int32_t>(head_dim)};
  with_type(queries.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t num_pairs = (num_heads + 2 * num_kv_heads) * (head_dim / 2);
    LaunchShape shape;
    shape.grid_x = static_cast<unsigned>(num_rows);
    shape.grid_y = static_cast<unsigned>((num_pairs + kThreads - 1) / kThreads);
    shape.num_threads = kThreads;
    launch(rotate_and_store_kernel<T>, shape, stream, rotation);
  });
});

}  // namespace
}  // namespace specgrove::cuda
