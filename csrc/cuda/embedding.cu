// A thread takes as many numbers of a row as are in 16 bytes, where rows lie at multiples of 16 bytes; else one.
#include <cstring>

#include "device.cuh"
#include "embedding.h"

namespace specgrove::cuda {
namespace {

constexpr unsigned kThreads = 128;

template <int kWidth, typename T>
__device__ inline void load_numbers(const T* source, float (&values)[kWidth]) {
  T numbers[kWidth];
  if constexpr (kWidth == 1) {
    numbers[0] = *source;
  } else {
    static_assert(sizeof numbers == sizeof(Vector16));
    const Vector16 loaded = load_once(source);
    std::memcpy(numbers, &loaded, sizeof numbers);
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = to_float(numbers[i]);
}

struct alignas(16) FourNumbers {
  float values[4];
};

template <int kWidth>
__device__ inline void store_numbers(const float (&values)[kWidth], float* target) {
  if constexpr (kWidth == 1) {
    *target = values[0];
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; i += 4) {
      *reinterpret_cast<FourNumbers*>(target + i) = {values[i], values[i + 1], values[i + 2], values[i + 3]};
    }
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) embed_kernel(Embedding embedding) {
  const int64_t row = blockIdx.x, size = embedding.size;
  const int64_t i = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kWidth;
  if (i >= size) return;
  const int64_t id = embedding.token_ids[row] - embedding.first_id;
  float values[kWidth] = {};
  if (id >= 0 && id < embedding.num_ids) {
    load_numbers<kWidth>(static_cast<const T*>(embedding.table) + id * size + i, values);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) values[j] *= embedding.scale;
  }
  if (embedding.position_table != nullptr) {
    float learned[kWidth];
    load_numbers<kWidth>(static_cast<const T*>(embedding.position_table) + embedding.positions[row] * size + i,
                         learned);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) values[j] += learned[j];
  }
  store_numbers(values, embedding.out + row * size + i);
}

template <typename T, int kWidth>
void run(const Embedding& embedding, Stream stream) {
  constexpr int64_t kBlockNumbers = static_cast<int64_t>(kThreads) * kWidth;
  LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(embedding.num_rows);
  shape.grid_y = static_cast<unsigned>((embedding.size + kBlockNumbers - 1) / kBlockNumbers);
  shape.num_threads = kThreads;
  launch(embed_kernel<T, kWidth>, shape, stream, embedding);
}

bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

}  // namespace

void embed(const Embedding& embedding, DType dtype, Stream stream) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kWidth = 16 / sizeof(T);
    if (embedding.size % kWidth == 0 && is_aligned(embedding.table) && is_aligned(embedding.position_table) &&
        is_aligned(embedding.out)) {
      run<T, kWidth>(embedding, stream);
    } else {
      run<T, 1>(embedding, stream);
    }
  });
}

}  // namespace specgrove::cuda
