// The body of one attention task, compiled once per instruction set: loops over fixed numbers of lanes become vectors.
#include <algorithm>
#include <cmath>
#include <limits>

#include "attention.h"
#include "vector_math.h"

namespace specgrove {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kMaxGroup = 128;

float add_up(float* sums) {
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  }
  return sums[0];
}

float dot(const float* a, const float* b, int64_t size) {
  float sums[kLanes] = {};
  for (int64_t i = 0; i < size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  return add_up(sums);
}

template <typename T>
void load_row(const T* row, int64_t size, int64_t padded, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = to_float(row[i]);
  for (int64_t i = size; i < padded; ++i) out[i] = 0.0f;
}

template <typename T>
void attend(const AttentionTask& task) {
  const int64_t dim = task.head_dim, padded = (dim + kLanes - 1) / kLanes * kLanes;
  alignas(64) float keys[kKeyChunk * kMaxHeadDim];
  alignas(64) float values[kKeyChunk * kMaxHeadDim];
  alignas(64) float query[kMaxHeadDim] = {};
  float maxima[kMaxGroup], totals[kMaxGroup];
  std::fill_n(maxima, task.group_size, -std::numeric_limits<float>::infinity());
  std::fill_n(totals, task.group_size, 0.0f);
  std::fill_n(task.out, task.group_size * dim, 0.0f);
  for (int64_t start = 0; start < task.num_keys; start += kKeyChunk) {
    const int64_t count = std::min(kKeyChunk, task.num_keys - start);
    for (int64_t key = 0; key < count; ++key) {
      const int64_t place = task.slots[start + key] * task.slot_stride;
      load_row(static_cast<const T*>(task.k_cache) + place, dim, padded, keys + key * padded);
      load_row(static_cast<const T*>(task.v_cache) + place, dim, padded, values + key * padded);
    }
    for (int64_t head = 0; head < task.group_size; ++head) {
      std::copy_n(task.queries + head * dim, dim, query);
      alignas(64) float weights[kKeyChunk];
      float maximum = maxima[head];
      for (int64_t key = 0; key < count; ++key) {
        float score = dot(query, keys + key * padded, padded) * task.scale;
        if (task.alibi_slopes != nullptr) {
          score += task.alibi_slopes[head] * static_cast<float>(start + key - (task.num_keys - 1));
        }
        weights[key] = score;
        maximum = std::max(maximum, score);
      }
      for (int64_t key = count; key < kKeyChunk; ++key) weights[key] = -std::numeric_limits<float>::infinity();
      for (int64_t key = 0; key < kKeyChunk; ++key) weights[key] = exp_of(weights[key] - maximum);
      float sums[kLanes];
      for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] = weights[lane] + weights[kLanes + lane];
      const float shrink = exp_of(maxima[head] - maximum);
      totals[head] = totals[head] * shrink + add_up(sums);
      maxima[head] = maximum;
      float* out = task.out + head * dim;
      for (int64_t i = 0; i < dim; ++i) out[i] *= shrink;
      for (int64_t key = 0; key < count; ++key) {
        const float weight = weights[key];
        const float* value = values + key * padded;
        for (int64_t i = 0; i < dim; ++i) out[i] += weight * value[i];
      }
    }
  }
  for (int64_t head = 0; head < task.group_size; ++head) {
    const float inverse = 1.0f / totals[head];
    for (int64_t i = 0; i < dim; ++i) task.out[head * dim + i] *= inverse;
  }
}

void attention_task(const AttentionTask& task) {
  with_type(task.dtype, [&](auto* type) { attend<std::remove_pointer_t<decltype(type)>>(task); });
}

}  // namespace
}  // namespace specgrove
