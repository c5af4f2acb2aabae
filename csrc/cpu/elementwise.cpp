#include "elementwise.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "clones.h"
#include "thread_pool.h"
#include "vector_math.h"

namespace specgrove {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kMinTaskElements = 1 << 14;  // below this a second thread costs more than it saves

// Sixteen running sums, added up in a tree: one order whatever the compiler vectorises.
static inline float sum_of_squares(const float* x, int64_t size) {
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += x[i + lane] * x[i + lane];
  }
  for (int64_t lane = 0; i < size; ++i, ++lane) sums[lane] += x[i] * x[i];
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  }
  return sums[0];
}

SPECGROVE_CLONES void norm_row(const float* x, const float* weight, float eps, int64_t size, float* out) {
  const float scale = 1.0f / std::sqrt(sum_of_squares(x, size) / static_cast<float>(size) + eps);
  for (int64_t i = 0; i < size; ++i) out[i] = x[i] * scale * weight[i];
}

SPECGROVE_CLONES void add_row(const float* delta, int64_t size, float* sum) {
  for (int64_t i = 0; i < size; ++i) sum[i] += delta[i];
}

SPECGROVE_CLONES void silu_row(const float* gate, const float* up, int64_t size, float* out) {
  for (int64_t i = 0; i < size; ++i) {
    const float x = gate[i];
    // x * sigmoid(x), with the exponential of a negative number so that it can't overflow.
    const float e = exp_of(-std::fabs(x));
    const float sigmoid = (x >= 0.0f ? 1.0f : e) / (1.0f + e);
    out[i] = x * sigmoid * up[i];
  }
}

template <typename Row>
void for_rows(int64_t num_rows, int64_t row_elements, const Row& row) {
  const int64_t rows_per_task = std::max<int64_t>(1, kMinTaskElements / std::max<int64_t>(1, row_elements));
  const int64_t num_tasks = (num_rows + rows_per_task - 1) / rows_per_task;
  ThreadPool::instance().run(num_tasks, [&](int64_t task) {
    const int64_t end = std::min(num_rows, (task + 1) * rows_per_task);
    for (int64_t i = task * rows_per_task; i < end; ++i) row(i);
  });
}

SPECGROVE_CLONES void rotate(const float* x, const float* cos_sin, int64_t head_dim, float* out) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float cosine = cos_sin[i], sine = cos_sin[half + i];
    out[i] = x[i] * cosine - x[half + i] * sine;
    out[half + i] = x[half + i] * cosine + x[i] * sine;
  }
}

SPECGROVE_CLONES void convert(const float* x, int64_t count, BFloat16* out) {
  for (int64_t i = 0; i < count; ++i) from_float(x[i], out + i);
}
SPECGROVE_CLONES void convert(const float* x, int64_t count, Float16* out) {
  for (int64_t i = 0; i < count; ++i) from_float(x[i], out + i);
}
SPECGROVE_CLONES void convert(const BFloat16* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = to_float(x[i]);
}
SPECGROVE_CLONES void convert(const Float16* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = to_float(x[i]);
}
void convert(const float* x, int64_t count, float* out) { std::copy_n(x, count, out); }

void check_range(bool holds, const char* what, int64_t value, int64_t limit) {
  if (holds) return;
  throw std::invalid_argument(std::string(what) + " must be from 0 to " + std::to_string(limit - 1) + ", got " +
                              std::to_string(value));
}

template <typename Index>
void check_all(const Index* values, int64_t count, int64_t limit, const char* what) {
  for (int64_t i = 0; i < count; ++i) check_range(values[i] >= 0 && values[i] < limit, what, values[i], limit);
}

}  // namespace

void rms_norm(const float* x, const float* weight, float eps, int64_t num_rows, int64_t size, float* out) {
  for_rows(num_rows, size, [=](int64_t row) { norm_row(x + row * size, weight, eps, size, out + row * size); });
}

void add_rms_norm(float* residual, const float* delta, const float* weight, float eps, int64_t num_rows, int64_t size,
                  float* out) {
  for_rows(num_rows, size, [=](int64_t row) {
    float* sum = residual + row * size;
    add_row(delta + row * size, size, sum);
    norm_row(sum, weight, eps, size, out + row * size);
  });
}

void silu_mul(const float* gate_up, int64_t num_rows, int64_t size, float* out) {
  for_rows(num_rows, 4 * size, [=](int64_t row) {
    const float* gate = gate_up + row * 2 * size;
    silu_row(gate, gate + size, size, out + row * size);
  });
}

void embed(const void* table, DType dtype, int64_t vocab_size, const int64_t* token_ids, int64_t num_rows, int64_t size,
           float* out) {
  check_all(token_ids, num_rows, vocab_size, "token ids");
  with_type(dtype, [&](auto* type) {
    const auto* rows = static_cast<const std::remove_pointer_t<decltype(type)>*>(table);
    for (int64_t row = 0; row < num_rows; ++row) convert(rows + token_ids[row] * size, size, out + row * size);
  });
}

void rotate_and_store(const RotateAndStore& call) {
  check_all(call.positions, call.num_rows, call.max_positions, "positions");
  check_all(call.slots, call.num_rows, call.num_slots, "slots");
  with_type(call.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t dim = call.head_dim, num_heads = call.num_heads, num_kv = call.num_kv_heads;
    const int64_t row_size = (num_heads + 2 * num_kv) * dim;
    for_rows(call.num_rows, 2 * row_size, [&](int64_t row) {
      const float* x = call.qkv + row * row_size;
      const float* cos_sin = call.cos_sin + call.positions[row] * dim;
      for (int64_t head = 0; head < num_heads; ++head) {
        rotate(x + head * dim, cos_sin, dim, call.queries + (row * num_heads + head) * dim);
      }
      const int64_t place = call.slots[row] * num_kv * dim;
      T* keys = static_cast<T*>(call.k_cache) + place;
      for (int64_t head = 0; head < num_kv; ++head) {
        float rotated[kMaxHeadDim];
        rotate(x + (num_heads + head) * dim, cos_sin, dim, rotated);
        convert(rotated, dim, keys + head * dim);
      }
      convert(x + (num_heads + num_kv) * dim, num_kv * dim, static_cast<T*>(call.v_cache) + place);
    });
  });
}

}  // namespace specgrove
