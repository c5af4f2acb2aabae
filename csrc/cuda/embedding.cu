// Rows of an embedding table, and of learned positions, as float32.
//
// A thread takes as many numbers of a row as are in 16 bytes, where rows lie at multiples of 16 bytes; else one.
#include <cstring>

#include "device.cuh"
#include "kernel.h"

namespace specgrove::cuda {
namespace {

struct Embedding {
  const void* table;         // [num_ids, size] in dtype: of the ids from first_id on
  const int32_t* token_ids;  // [num_rows]
  int64_t first_id, num_ids;
  const void* position_table;  // [num_positions, size] in dtype, or null
  const int32_t* positions;    // [num_rows], or null with position_table
  float scale;
  int64_t num_rows, size;
  float* out;  // [num_rows, size]
};

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

// out = table[token_ids - first_id] * scale + position_table[positions], with zeros for ids that the table doesn't
// have. Positions must be in their table, if there is one.
const Kernel kEmbed("Embed", [](OpFields& fields, Stream stream) {
  const Tensor table = fields.table("table", {kAnySize, kAnySize});
  const int64_t size = table.shape[1], num_rows = fields.shape("out").at(0);
  Embedding embedding{};
  embedding.table = table.address;
  embedding.token_ids = fields.numbers<int32_t>("token_ids", {num_rows});
  embedding.first_id = fields.integer("first_id");
  embedding.num_ids = table.shape[0];
  if (!fields.is_none("position_table")) {
    const Tensor learned = fields.table("position_table", {kAnySize, size});
    if (learned.type != table.type) throw std::invalid_argument("both tables must be of one dtype");
    embedding.position_table = learned.address;
    embedding.positions = fields.numbers<int32_t>("positions", {num_rows});
  }
  fields.leave({"positions"});
  embedding.scale = fields.number("scale");
  embedding.num_rows = num_rows;
  embedding.size = size;
  embedding.out = fields.numbers<float>("out", {num_rows, size});
  with_type(table.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kWidth = 16 / sizeof(T);
    if (size % kWidth == 0 && is_aligned(embedding.table) && is_aligned(embedding.position_table) &&
        is_aligned(embedding.out)) {
      run<T, kWidth>(embedding, stream);
    } else {
      run<T, 1>(embedding, stream);
    }
  });
});

}  // namespace
}  // namespace specgrove::cuda
