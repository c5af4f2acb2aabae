// Norms of rows, with the addition before them and the conversion after them; and norms of heads.
#include <algorithm>
#include <cmath>

#include "block_sum.cuh"
#include "device.cuh"
#include "kernel.h"

namespace specgrove::cuda {
namespace {

struct Norm {
  float* residual;      // [num_rows, size]; without rows delta is added in place
  const float* delta;   // [num_rows, size], or null
  const float* weight;  // [size]
  const float* bias;    // [size], or null
  const int32_t* rows;  // [num_out_rows]: the rows to norm, and nothing is written but out; or null: all, in order
  float eps;
  int64_t num_out_rows, size;
  void* out;  // [num_out_rows, size] in out_dtype
  DType out_dtype;
};

constexpr unsigned kThreads = 256;

// Calls use(i, load(i)) for a thread's numbers of a row: the first and those multiples of kStride later. What a batch
// of them needs is loaded before the first is used: a load behind a store would wait for it, and a row is too short to
// hide that.
template <unsigned kStride, typename Load, typename Use>
__device__ inline void for_own_numbers(unsigned first, int64_t size, const Load& load, const Use& use) {
  constexpr int kBatch = 8;
  for (int64_t start = first; start < size; start += kBatch * kStride) {
    decltype(load(start)) loaded[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t place = start + i * kStride;
      if (place < size) loaded[i] = load(place);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t place = start + i * kStride;
      if (place < size) use(place, loaded[i]);
    }
  }
}

struct Scaled {
  float value, weight, bias;
};

// out = x / sqrt(mean of its squares + eps) * weight + bias for x = residual + delta, less its mean where it is a layer
// norm: in float32, rounded once. A block takes one row.
template <bool kIsLayerNorm, typename T>
__global__ void __launch_bounds__(kThreads) norm_kernel(Norm norm) {
  const int64_t row = norm.rows == nullptr ? static_cast<int64_t>(blockIdx.x) : norm.rows[blockIdx.x];
  float* const residual = norm.residual + row * norm.size;
  const float* delta = norm.delta == nullptr ? nullptr : norm.delta + row * norm.size;
  const bool is_added_in_place = norm.rows == nullptr && delta != nullptr;
  const auto size = static_cast<float>(norm.size);
  auto sum_of_both = [&](int64_t i) { return delta == nullptr ? residual[i] : residual[i] + delta[i]; };

  float sum = 0.0f;  // of the numbers for a layer norm, of their squares for the other
  for_own_numbers<kThreads>(threadIdx.x, norm.size, sum_of_both, [&](int64_t i, float value) {
    if (is_added_in_place) residual[i] = value;
    sum += kIsLayerNorm ? value : value * value;
  });
  if (is_added_in_place) delta = nullptr;
  sum = block_sum<kThreads>(sum);
  float mean = 0.0f, squares = sum;
  if constexpr (kIsLayerNorm) {
    mean = sum / size;
    squares = 0.0f;
    for_own_numbers<kThreads>(threadIdx.x, norm.size, sum_of_both,
                              [&](int64_t, float value) { squares += (value - mean) * (value - mean); });
    squares = block_sum<kThreads>(squares);
  }
  const float factor = 1.0f / sqrtf(squares / size + norm.eps);
  T* const out = static_cast<T*>(norm.out) + static_cast<int64_t>(blockIdx.x) * norm.size;
  auto scaled = [&](int64_t i) {
    return Scaled{sum_of_both(i), norm.weight[i], norm.bias == nullptr ? -0.0f : norm.bias[i]};  // -0 changes no number
  };
  for_own_numbers<kThreads>(threadIdx.x, norm.size, scaled, [&](int64_t i, const Scaled& number) {
    from_float((number.value - mean) * factor * number.weight + number.bias, &out[i]);
  });
}

template <bool kIsLayerNorm>
void run(const Norm& norm, Stream stream) {
  with_type(norm.out_dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    LaunchShape shape;
    shape.grid_x = static_cast<unsigned>(norm.num_out_rows);
    shape.num_threads = kThreads;
    shape.shared_bytes = kBlockSumBytes;
    launch(norm_kernel<kIsLayerNorm, T>, shape, stream, norm);
  });
}

// Of the rows of x, or of those at `rows`, int32, alone.
void launch_norm(OpFields& fields, const float* delta, Stream stream) {
  const Tensor x = fields.table("x", {kAnySize, kAnySize}), out = fields.table("out", {kAnySize, x.shape[1]});
  const int64_t size = x.shape[1], num_rows = fields.is_none("rows") ? x.shape[0] : fields.shape("rows").at(0);
  const Norm norm{fields.numbers<float>("x", {x.shape[0], size}),
                  delta,
                  fields.numbers<float>("scale", {size}),
                  fields.numbers_or_null<float>("shift", {size}),
                  fields.numbers_or_null<int32_t>("rows", {num_rows}),
                  fields.number("eps"),
                  num_rows,
                  size,
                  fields.table("out", {num_rows, size}).address,
                  out.dtype()};
  (fields.choice<bool>("kind", {{"rms", true}, {"layer", false}}) ? run<false> : run<true>)(norm, stream);
}

const Kernel kNorm("Norm", [](OpFields& fields, Stream stream) { launch_norm(fields, nullptr, stream); });

const Kernel kAddNorm("AddNorm", [](OpFields& fields, Stream stream) {
  const std::vector<int64_t>& shape = fields.shape("x");
  launch_norm(fields, fields.numbers<float>("delta", {shape.at(0), shape.at(1)}), stream);
});

struct HeadNorm {
  float* qkv;           // [num_rows, width]; heads are normed in place
  const float* weight;  // [head_dim]
  float eps;
  int64_t num_rows, width, first_head, num_heads, head_dim;
};

constexpr unsigned kHeadWarps = 8;

// A warp takes one head of one row.
__global__ void __launch_bounds__(kHeadWarps* kWarpSize) head_rms_norm_kernel(HeadNorm norm) {
  const int64_t number = static_cast<int64_t>(blockIdx.x) * kHeadWarps + threadIdx.x / kWarpSize;
  if (number >= norm.num_rows * norm.num_heads) return;
  const int64_t row = number / norm.num_heads, head = norm.first_head + number % norm.num_heads;
  float* const numbers = norm.qkv + row * norm.width + head * norm.head_dim;
  const unsigned lane = threadIdx.x % kWarpSize;
  float squares = 0.0f;
  for_own_numbers<kWarpSize>(
      lane, norm.head_dim, [&](int64_t i) { return numbers[i]; },
      [&](int64_t, float value) { squares += value * value; });
  const float factor = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(norm.head_dim) + norm.eps);
  for_own_numbers<kWarpSize>(
      lane, norm.head_dim, [&](int64_t i) { return Scaled{numbers[i], norm.weight[i], -0.0f}; },
      [&](int64_t i, const Scaled& number) { numbers[i] = number.value * factor * number.weight; });
}

const Kernel kHeadNorm("HeadNorm", [](OpFields& fields, Stream stream) {
  const Tensor x = fields.table("x", {kAnySize, kAnySize});
  const int64_t num_rows = x.shape[0], width = x.shape[1], head_dim = fields.integer("head_dim");
  const HeadNorm norm{fields.numbers<float>("x", {num_rows, width}),
                      fields.numbers<float>("scale", {head_dim}),
                      fields.number("eps"),
                      num_rows,
                      width,
                      fields.integer("first_head"),
                      fields.integer("num_heads"),
                      head_dim};
  if (std::min(norm.first_head, norm.num_heads) < 0 || (norm.first_head + norm.num_heads) * head_dim > width) {
    throw std::invalid_argument("x has no " + std::to_string(norm.num_heads) + " heads of size " +
                                std::to_string(head_dim) + " from head " + std::to_string(norm.first_head) + " on");
  }
  LaunchShape shape;
  shape.grid_x = static_cast<unsigned>((num_rows * norm.num_heads + kHeadWarps - 1) / kHeadWarps);
  shape.num_threads = kHeadWarps * kWarpSize;
  launch(head_rms_norm_kernel, shape, stream, norm);
});

}  // namespace
}  // namespace specgrove::cuda
