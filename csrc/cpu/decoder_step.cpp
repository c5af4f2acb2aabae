#include "decoder_step.h"

#include <algorithm>
#include <utility>

#include "elementwise.h"
#include "tile_state.h"

namespace specgrove {
namespace {

void grow(std::vector<float>& values, int64_t count) {
  if (static_cast<int64_t>(values.size()) < count) values.resize(count);
}

RotateAndStore rotation_of(const StepShape& shape, const StepLayer& layer, const StepRows& rows, size_t index,
                           const float* qkv, float* queries) {
  return {qkv,
          rows.positions,
          layer.cos_sin,
          rows.slots,
          reinterpret_cast<void*>((*rows.k_caches)[index]),
          reinterpret_cast<void*>((*rows.v_caches)[index]),
          rows.dtype,
          layer.max_positions,
          rows.num_slots,
          rows.num_rows,
          shape.num_heads,
          shape.num_kv_heads,
          shape.head_dim,
          queries};
}

}  // namespace

DecoderStep::DecoderStep(const StepShape& shape, std::vector<StepLayer> layers)
    : shape_(shape), layers_(std::move(layers)) {}

void DecoderStep::check(const StepRows& rows) const {
  for (size_t index = 0; index < layers_.size(); ++index) {
    check_places(rotation_of(shape_, layers_[index], rows, index, nullptr, nullptr));
  }
  check_slots(*rows.plan, rows.num_slots);
}

void DecoderStep::make_room(int64_t num_rows) {
  for (std::vector<float>* values : {&scratch_.normed, &scratch_.attention_out, &scratch_.mlp_out}) {
    grow(*values, num_rows * shape_.hidden_size);
  }
  const int64_t in_attention = shape_.qkv_size() + 2 * shape_.attended_size();
  grow(scratch_.wide, num_rows * std::max(in_attention, shape_.up_size() + shape_.inner_size));
}

void DecoderStep::norm(const StepNorm& norm, const float* x, int64_t num_rows, float* out) const {
  if (shape_.is_rms) {
    rms_norm(x, norm.scale, shape_.norm_eps, num_rows, shape_.hidden_size, out);
  } else {
    layer_norm(x, norm.scale, norm.shift, shape_.norm_eps, num_rows, shape_.hidden_size, out);
  }
}

void DecoderStep::norm_of_sum(const StepNorm& norm, float* residual, const float* delta, int64_t num_rows,
                              float* out) const {
  if (shape_.is_rms) {
    add_rms_norm(residual, delta, norm.scale, shape_.norm_eps, num_rows, shape_.hidden_size, out);
  } else {
    add_layer_norm(residual, delta, norm.scale, norm.shift, shape_.norm_eps, num_rows, shape_.hidden_size, out);
  }
}

void DecoderStep::run_attention(const StepRows& rows, size_t index, const float* normed, float* out) {
  const StepLayer& layer = layers_[index];
  float* qkv = scratch_.wide.data();
  float* queries = qkv + rows.num_rows * shape_.qkv_size();
  float* attended = queries + rows.num_rows * shape_.attended_size();
  layer.out->read_ahead();
  layer.qkv->forward(normed, rows.num_rows, qkv);
  if (shape_.qkv_clip) clip(qkv, *shape_.qkv_clip, rows.num_rows, shape_.qkv_size());
  const auto norm_heads = [&](const float* weight, int64_t first_head, int64_t num_heads) {
    head_rms_norm(qkv, weight, shape_.norm_eps, rows.num_rows, shape_.qkv_size(), first_head, num_heads,
                  shape_.head_dim);
  };
  if (layer.q_norm != nullptr) norm_heads(layer.q_norm, 0, shape_.num_heads);
  if (layer.k_norm != nullptr) norm_heads(layer.k_norm, shape_.num_heads, shape_.num_kv_heads);
  const RotateAndStore rotation = rotation_of(shape_, layer, rows, index, qkv, queries);
  rotate_and_store(rotation);
  const KvCache cache{rotation.k_cache, rotation.v_cache,    rows.dtype,
                      rows.num_slots,   shape_.num_kv_heads, shape_.head_dim};
  tree_attention(queries, cache, *rows.plan, shape_.num_heads, shape_.attention_scale, shape_.alibi_slopes,
                 layer.window, attended);
  layer.up->read_ahead();
  layer.out->forward(attended, rows.num_rows, out);
}

void DecoderStep::run_mlp(const StepRows& rows, size_t index, const float* normed, float* out) {
  const StepLayer& layer = layers_[index];
  const int64_t num_rows = rows.num_rows;
  float* up = scratch_.wide.data();
  float* inner = up + num_rows * shape_.up_size();
  layer.down->read_ahead();
  layer.up->forward(normed, num_rows, up);
  const auto apply = shape_.is_gated ? gated : activate;
  apply(up, shape_.activation, num_rows, shape_.inner_size, inner);
  const AnyLinear* const next = index + 1 < layers_.size() ? layers_[index + 1].qkv : rows.following;
  if (next != nullptr) next->read_ahead();
  layer.down->forward(inner, num_rows, out);
}

void DecoderStep::run(const StepRows& rows) {
  const std::lock_guard<std::mutex> running(mutex_);
  const TilesInUse in_use;
  check(rows);
  make_room(rows.num_rows);
  const int64_t num_rows = rows.num_rows;
  float* const normed = scratch_.normed.data();
  float *attention_out = scratch_.attention_out.data(), *mlp_out = scratch_.mlp_out.data();
  const float* delta = nullptr;  // what is still to be added to hidden: the next norm does it in the same pass
  for (size_t index = 0; index < layers_.size(); ++index) {
    const StepLayer& layer = layers_[index];
    if (shape_.residual == Residual::kPostNorm) {
      run_attention(rows, index, rows.hidden, attention_out);
      norm_of_sum(layer.attention_norm, rows.hidden, attention_out, num_rows, normed);
      run_mlp(rows, index, normed, mlp_out);
      norm_of_sum(layer.mlp_norm, normed, mlp_out, num_rows, rows.hidden);
      continue;
    }
    if (delta == nullptr) {
      norm(layer.attention_norm, rows.hidden, num_rows, normed);
    } else {
      norm_of_sum(layer.attention_norm, rows.hidden, delta, num_rows, normed);
    }
    run_attention(rows, index, normed, attention_out);
    if (shape_.residual == Residual::kParallel) {
      if (layer.mlp_norm.scale != nullptr) norm(layer.mlp_norm, rows.hidden, num_rows, normed);
      run_mlp(rows, index, normed, mlp_out);
      add(attention_out, mlp_out, num_rows, shape_.hidden_size);
      delta = attention_out;
      continue;
    }
    // A norm writes to the other buffer, which is free then: in place it would be slow.
    if (layer.attention_out_norm.scale != nullptr) {
      norm(layer.attention_out_norm, attention_out, num_rows, mlp_out);
      std::swap(attention_out, mlp_out);
    }
    norm_of_sum(layer.mlp_norm, rows.hidden, attention_out, num_rows, normed);
    run_mlp(rows, index, normed, mlp_out);
    if (layer.mlp_out_norm.scale != nullptr) {
      norm(layer.mlp_out_norm, mlp_out, num_rows, attention_out);
      std::swap(attention_out, mlp_out);
    }
    delta = mlp_out;
  }
  if (delta != nullptr) add(rows.hidden, delta, num_rows, shape_.hidden_size);
}

}  // namespace specgrove
