// Norms of rows, alone or after an addition, and of heads.
#include <cmath>

#include "../clones.h"
#include "../op.h"
#include "../rows.h"

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

struct Norm {
  explicit Norm(OpFields& fields)
      : is_rms(fields.choice<bool>("kind", {{"rms", true}, {"layer", false}})),
        out(fields.buffer("out")),
        x(fields.buffer("x")),
        scale(fields.numbers<float>("scale", {x.width})),
        shift(fields.numbers_or_null<float>("shift", {x.width})),
        eps(fields.number("eps")) {}

  // Of one row.
  void apply(const float* row, float* normed) const {
    if (is_rms) {
      rms_norm_row(row, scale, eps, x.width, normed);
    } else {
      layer_norm_row(row, scale, shift, eps, x.width, normed);
    }
  }

  bool is_rms;
  Buffer out, x;
  const float *scale, *shift;
  float eps;
};

const OpKind kNorm("Norm", [](OpFields& fields) -> Op {
  return {[norm = Norm(fields)](Pass& pass) {
    const int64_t size = norm.x.width;
    const float* const x = pass.at(norm.x);
    float* const out = pass.at(norm.out);
    for_rows(pass.num_rows, norm.is_rms ? size : 2 * size,
             [=, &norm](int64_t row) { norm.apply(x + row * size, out + row * size); });
  }};
});

const OpKind kAddNorm("AddNorm", [](OpFields& fields) -> Op {
  return {[norm = Norm(fields), delta = fields.buffer("delta")](Pass& pass) {
    const int64_t size = norm.x.width;
    float *const x = pass.at(norm.x), *const out = pass.at(norm.out);
    const float* const added = pass.at(delta);
    for_rows(pass.num_rows, norm.is_rms ? size : 2 * size, [=, &norm](int64_t row) {
      add_row(added + row * size, size, x + row * size);
      norm.apply(x + row * size, out + row * size);
    });
  }};
});

const OpKind kHeadNorm("HeadNorm", [](OpFields& fields) -> Op {
  const Buffer x = fields.buffer("x");
  const int64_t head_dim = fields.integer("head_dim"), num_heads = fields.integer("num_heads"),
                first = fields.integer("first_head") * head_dim;
  const float* const scale = fields.numbers<float>("scale", {head_dim});
  const float eps = fields.number("eps");
  return {[=](Pass& pass) {
    for_rows(pass.num_rows, num_heads * head_dim, [&, heads = pass.at(x) + first](int64_t row) {
      for (int64_t head = 0; head < num_heads; ++head) {
        rms_norm_in_place(heads + row * x.width + head * head_dim, scale, eps, head_dim);
      }
    });
  }};
});

}  // namespace
}  // namespace specgrove
