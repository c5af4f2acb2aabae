// Norms, sums, rotary positions and embedding: one row at a time, so rows never depend on one another.
#pragma once

#include <cstdint>

#include "number_types.h"

namespace specgrove {

// out[rows, size] = x * rsqrt(mean(x^2) + eps) * weight[size]
void rms_norm(const float* x, const float* weight, float eps, int64_t num_rows, int64_t size, float* out);
// residual += delta, then out = rms_norm(residual)
void add_rms_norm(float* residual, const float* delta, const float* weight, float eps, int64_t num_rows, int64_t size,
                  float* out);
// out[rows, size] = (x - mean(x)) * rsqrt(variance(x) + eps) * weight[size] + bias[size], which may be null
void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t num_rows, int64_t size,
                float* out);
// residual += delta, then out = layer_norm(residual)
void add_layer_norm(float* residual, const float* delta, const float* weight, const float* bias, float eps,
                    int64_t num_rows, int64_t size, float* out);
// residual[rows, size] += delta
void add(float* residual, const float* delta, int64_t num_rows, int64_t size);
// x[rows, size] = the nearest number from -limit to limit; NaN stays
void clip(float* x, float limit, int64_t num_rows, int64_t size);
// rms_norm of each head alone, in place: num_heads heads of qkv[rows, width] from first_head on; weight[head_dim]
void head_rms_norm(float* qkv, const float* weight, float eps, int64_t num_rows, int64_t width, int64_t first_head,
                   int64_t num_heads, int64_t head_dim);
// Rows of a table, or of a rank's share of one.
struct Embedding {
  const void* table;  // [num_ids, size]
  DType dtype;
  int64_t first_id, num_ids, size;
  float scale;
};
// out[rows, size] = table[token_id - first_id] * scale; zeros for ids that the table doesn't have
void embed(const Embedding& embedding, const int64_t* token_ids, int64_t num_rows, float* out);
// x[rows, size] += table[position]
void add_positions(const void* table, DType dtype, const int32_t* positions, int64_t num_rows, int64_t size, float* x);
// Throws std::invalid_argument, which begins with `what`, unless all are from 0 to limit - 1.
void check_indices(const int64_t* values, int64_t count, int64_t limit, const char* what);
void check_indices(const int32_t* values, int64_t count, int64_t limit, const char* what);
constexpr int64_t kMaxHeadDim = 256;

struct RotateAndStore {
  const float* qkv;  // [rows, (num_heads + 2 * num_kv_heads) * head_dim]
  const int32_t* positions;
  const float* cos_sin;  // [max_positions, head_dim]: cosines, then sines; or null: nothing is rotated
  const int32_t* slots;
  void* k_cache;  // [num_slots, num_kv_heads, head_dim]
  void* v_cache;
  DType dtype;  // of the caches
  int64_t num_rows, num_heads, num_kv_heads, head_dim;
  float* queries;  // [rows, num_heads, head_dim]
};
// Positions and slots are those of the tables.
void rotate_and_store(const RotateAndStore& call);

}  // namespace specgrove
