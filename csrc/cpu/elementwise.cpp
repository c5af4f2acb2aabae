#include "elementwise.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "clones.h"
#include "rows.h"

namespace specgrove {
namespace {

constexpr int64_t kLanes = 16;
// Sixteen running sums, added up in a tree: one order whatever the compiler vectorises.
static inline float total_of(float* sums) {
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  }
  return sums[0];
}

static inline float sum_of(const float* x, int64_t size) {
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += x[i + lane];
  }
  for (int64_t lane = 0; i < size; ++i, ++lane) sums[lane] += x[i];
  return total_of(sums);
}

// Of the distances from center.
static inline float sum_of_squares(const float* x, float center, int64_t size) {
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += (x[i + lane] - center) * (x[i + lane] - center);
  }
  for (int64_t lane = 0; i < size; ++i, ++lane) sums[lane] += (x[i] - center) * (x[i] - center);
  return total_of(sums);
}

static inline float scale_of(const float* x, float center, float eps, int64_t size) {
  return 1.0f / std::sqrt(sum_of_squares(x, center, size) / static_cast<float>(size) + eps);
}

SPECGROVE_CLONES void rms_norm_row(const float* x, const float* weight, float eps, int64_t size, float* out) {
  const float scale = scale_of(x, 0.0f, eps, size);
  for (int64_t i = 0; i < size; ++i) out[i] = x[i] * scale * weight[i];
}

SPECGROVE_CLONES void rms_norm_in_place(float* x, const float* weight, float eps, int64_t size) {
  const float scale = scale_of(x, 0.0f, eps, size);
  for (int64_t i = 0; i < size; ++i) x[i] = x[i] * scale * weight[i];
}

SPECGROVE_CLONES void layer_norm_row(const float* x, const float* weight, const float* bias, float eps, int64_t size,
                                     float* out) {
  const float mean = sum_of(x, size) / static_cast<float>(size), scale = scale_of(x, mean, eps, size);
  if (bias == nullptr) {
    for (int64_t i = 0; i < size; ++i) out[i] = (x[i] - mean) * scale * weight[i];
  } else {
    for (int64_t i = 0; i < size; ++i) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
  }
}

SPECGROVE_CLONES void add_row(const float* delta, int64_t size, float* sum) {
  for (int64_t i = 0; i < size; ++i) sum[i] += delta[i];
}

SPECGROVE_CLONES void clip_row(float* x, float limit, int64_t size) {
  for (int64_t i = 0; i < size; ++i) x[i] = x[i] < -limit ? -limit : x[i] > limit ? limit : x[i];
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

template <typename Index>
void check_all(const Index* values, int64_t count, int64_t limit, const char* what) {
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] >= 0 && values[i] < limit) continue;
    throw std::invalid_argument(std::string(what) + " must be from 0 to " + std::to_string(limit - 1) + ", got " +
                                std::to_string(values[i]));
  }
}

}  // namespace

void rms_norm(const float* x, const float* weight, float eps, int64_t num_rows, int64_t size, float* out) {
  for_rows(num_rows, size, [=](int64_t row) { rms_norm_row(x + row * size, weight, eps, size, out + row * size); });
}

void add_rms_norm(float* residual, const float* delta, const float* weight, float eps, int64_t num_rows, int64_t size,
                  float* out) {
  for_rows(num_rows, size, [=](int64_t row) {
    float* sum = residual + row * size;
    add_row(delta + row * size, size, sum);
    rms_norm_row(sum, weight, eps, size, out + row * size);
  });
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t num_rows, int64_t size,
                float* out) {
  for_rows(num_rows, 2 * size,
           [=](int64_t row) { layer_norm_row(x + row * size, weight, bias, eps, size, out + row * size); });
}

void add_layer_norm(float* residual, const float* delta, const float* weight, const float* bias, float eps,
                    int64_t num_rows, int64_t size, float* out) {
  for_rows(num_rows, 2 * size, [=](int64_t row) {
    float* sum = residual + row * size;
    add_row(delta + row * size, size, sum);
    layer_norm_row(sum, weight, bias, eps, size, out + row * size);
  });
}

void add(float* residual, const float* delta, int64_t num_rows, int64_t size) {
  for_rows(num_rows, size, [=](int64_t row) { add_row(delta + row * size, size, residual + row * size); });
}

void clip(float* x, float limit, int64_t num_rows, int64_t size) {
  for_rows(num_rows, size, [=](int64_t row) { clip_row(x + row * size, limit, size); });
}

void head_rms_norm(float* qkv, const float* weight, float eps, int64_t num_rows, int64_t width, int64_t first_head,
                   int64_t num_heads, int64_t head_dim) {
  for_rows(num_rows, num_heads * head_dim, [=](int64_t row) {
    float* heads = qkv + row * width + first_head * head_dim;
    for (int64_t head = 0; head < num_heads; ++head) rms_norm_in_place(heads + head * head_dim, weight, eps, head_dim);
  });
}

void embed(const Embedding& embedding, const int64_t* token_ids, int64_t num_rows, float* out) {
  const int64_t size = embedding.size;
  with_type(embedding.dtype, [&](auto* type) {
    const auto* table = static_cast<const std::remove_pointer_t<decltype(type)>*>(embedding.table);
    for (int64_t row = 0; row < num_rows; ++row, out += size) {
      const int64_t id = token_ids[row] - embedding.first_id;
      if (id < 0 || id >= embedding.num_ids) {
        std::fill_n(out, size, 0.0f);
        continue;
      }
      convert(table + id * size, size, out);
      if (embedding.scale == 1.0f) continue;
      for (int64_t i = 0; i < size; ++i) out[i] *= embedding.scale;
    }
  });
}

void add_positions(const void* table, DType dtype, const int32_t* positions, int64_t num_rows, int64_t size, float* x) {
  with_type(dtype, [&](auto* type) {
    const auto* rows = static_cast<const std::remove_pointer_t<decltype(type)>*>(table);
    for (int64_t row = 0; row < num_rows; ++row, x += size) {
      const auto* learned = rows + positions[row] * size;
      for (int64_t i = 0; i < size; ++i) x[i] += to_float(learned[i]);
    }
  });
}

void check_indices(const int64_t* values, int64_t count, int64_t limit, const char* what) {
  check_all(values, count, limit, what);
}
void check_indices(const int32_t* values, int64_t count, int64_t limit, const char* what) {
  check_all(values, count, limit, what);
}

void rotate_and_store(const RotateAndStore& call) {
  with_type(call.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t dim = call.head_dim, num_heads = call.num_heads, num_kv = call.num_kv_heads;
    const int64_t row_size = (num_heads + 2 * num_kv) * dim;
    for_rows(call.num_rows, 2 * row_size, [&](int64_t row) {
      const float* x = call.qkv + row * row_size;
      float* queries = call.queries + row * num_heads * dim;
      const int64_t place = call.slots[row] * num_kv * dim;
      T* keys = static_cast<T*>(call.k_cache) + place;
      if (call.cos_sin == nullptr) {
        convert(x, num_heads * dim, queries);
        convert(x + num_heads * dim, num_kv * dim, keys);
      } else {
        const float* cos_sin = call.cos_sin + call.positions[row] * dim;
        for (int64_t head = 0; head < num_heads; ++head) rotate(x + head * dim, cos_sin, dim, queries + head * dim);
        for (int64_t head = 0; head < num_kv; ++head) {
          float rotated[kMaxHeadDim];
          rotate(x + (num_heads + head) * dim, cos_sin, dim, rotated);
          convert(rotated, dim, keys + head * dim);
        }
      }
      convert(x + (num_heads + num_kv) * dim, num_kv * dim, static_cast<T*>(call.v_cache) + place);
    });
  });
}

}  // namespace specgrove
