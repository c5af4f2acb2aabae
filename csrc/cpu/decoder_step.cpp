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
  const int64_t in_attention = shape_.attended_size() + shape_.qkv_size();
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

void DecoderStep::store_keys(const StepRows& rows, size_t index, const float* normed) {
  const StepLayer& layer = layers_[index];
  float* queries = scratch_.wide.data();
  float* qkv = queries + rows.num_rows * shape_.attended_size();
  layer.out->read_ahead();
  layer.qkv->forward(normed, rows.num_rows, qkv);
  if (shape_.qkv_clip) clip(qkv, *shape_.qkv_clip, rows.num_rows, shape_.qkv_size());
  const auto norm_heads = [&](const float* weight, int64_t first_head, int64_t num_heads) {
    head_rms_norm(qkv, weight, shape_.norm_eps, rows.num_rows, shape_.qkv_size(), first_head, num_heads,
                  shape_.head_dim);
  };
  if (layer.q_norm != nullptr) norm_heads(layer.q_norm, 0, shape_.num_heads);
  if (layer.k_norm != nullptr) norm_heads(layer.k_norm, shape_.num_heads, shape_.num_kv_heads);
  rotate_and_store(rotation_of(shape_, layer, rows, index, qkv, queries));
}

void DecoderStep::attend(const StepRows& rows, size_t index, float* out) {
  const StepLayer& layer = layers_[index];
  const float* queries = scratch_.wide.data();
  float* attended = scratch_.wide.data() + rows.num_rows * shape_.attended_size();
  const KvCache cache{reinterpret_cast<const void*>((*rows.k_caches)[index]),
                      reinterpret_cast<const void*>((*rows.v_caches)[index]),
                      rows.dtype,
                      rows.num_slots,
                      shape_.num_kv_heads,
                      shape_.head_dim};
  tree_attention(queries, cache, *rows.plan, shape_.num_heads, shape_.attention_scale, shape_.alibi_slopes,
                 layer.window, attended);
  layer.up->read_ahead();
  layer.out->forward(attended, rows.num_rows, out);
}

// Rows rise, so each moves to a place that is free or its own. Parallel layers still need what attention read.
void DecoderStep::keep_wanted(StepRows* rows) {
  const WantedRows wanted = *rows->wanted;
  const auto keep = [&](float* values, int64_t size) {
    for (int64_t i = 0; i < wanted.count; ++i) {
      if (wanted.rows[i] != i) std::copy_n(values + wanted.rows[i] * size, size, values + i * size);
    }
  };
  keep(rows->hidden, shape_.hidden_size);
  keep(scratch_.wide.data(), shape_.attended_size());
  if (shape_.residual == Residual::kParallel) keep(scratch_.normed.data(), shape_.hidden_size);
  wanted_plan_.select(*rows->plan, wanted.rows, wanted.count);
  rows->plan = &wanted_plan_;
  rows->num_rows = wanted.count;
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

void DecoderStep::run(const StepRows& all_rows) {
  const std::lock_guard<std::mutex> running(mutex_);
  const TilesInUse in_use;
  check(all_rows);
  make_room(all_rows.num_rows);
  StepRows rows = all_rows;  // fewer once the last layer's keys and values are stored
  const int64_t& num_rows = rows.num_rows;
  float* const normed = scratch_.normed.data();
  float *attention_out = scratch_.attention_out.data(), *mlp_out = scratch_.mlp_out.data();
  const float* delta = nullptr;  // what is still to be added to hidden: the next norm does it in the same pass
  const auto run_attention = [&](size_t index, const float* input) {
    store_keys(rows, index, input);
    const bool is_last = index + 1 == layers_.size();
    if (is_last && rows.wanted && rows.wanted->count < num_rows) keep_wanted(&rows);
    if (num_rows > 0) attend(rows, index, attention_out);
    return num_rows > 0;
  };
  for (size_t index = 0; index < layers_.size(); ++index) {
    const StepLayer& layer = layers_[index];
    if (shape_.residual == Residual::kPostNorm) {
      if (!run_attention(index, rows.hidden)) return;
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
    if (!run_attention(index, normed)) return;
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
