// All layers of a decoder in one call: the same kernels in the same order as specgrove.program.decoder_layer calls them
// one by one, so the same bits. Nothing is allocated once the largest number of rows has been seen.
//
// Addresses and linears belong to the caller (specgrove.kernels.decoder_step), which keeps them alive.
#pragma once

#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <vector>

#include "activation.h"
#include "any_linear.h"
#include "attention.h"
#include "number_types.h"

namespace specgrove {

enum class Residual { kPreNorm, kPostNorm, kParallel };

// What all layers share. Sizes are in elements.
struct StepShape {
  int64_t hidden_size, inner_size;  // inner: what the MLP's down reads
  int64_t num_heads, num_kv_heads, head_dim;
  bool is_rms;  // the kind of all norms, those of single heads aside
  float norm_eps;
  Activation activation;
  bool is_gated;
  Residual residual;
  float attention_scale;
  std::optional<float> qkv_clip;
  const float* alibi_slopes;  // [num_heads] or null

  int64_t attended_size() const { return num_heads * head_dim; }
  int64_t qkv_size() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
  int64_t up_size() const { return is_gated ? 2 * inner_size : inner_size; }
};

struct StepNorm {
  const float* scale;  // [hidden_size]; null where a layer doesn't have the norm
  const float* shift;  // [hidden_size] or null
};

struct StepLayer {
  const AnyLinear *qkv, *out, *up, *down;
  StepNorm attention_norm, mlp_norm, attention_out_norm, mlp_out_norm;
  const float *q_norm, *k_norm;  // [head_dim] or null
  const float* cos_sin;          // [max_positions, head_dim] or null
  int64_t max_positions;
  int64_t window;
};

// Rows whose hidden states are wanted after the last layer, in rising order: `hidden` begins with them then. Of the
// others that layer makes keys and values only, which is all that other rows ever read.
struct WantedRows {
  const int64_t* rows;
  int64_t count;
};

// One call's rows and caches; each cache is [num_slots, num_kv_heads, head_dim].
struct StepRows {
  float* hidden;  // [num_rows, hidden_size], in and out
  int64_t num_rows;
  const int32_t* positions;
  const int32_t* slots;
  const AttentionPlan* plan;
  const std::vector<uintptr_t>* k_caches;  // an address for each layer
  const std::vector<uintptr_t>* v_caches;
  DType dtype;  // of the caches
  int64_t num_slots;
  const AnyLinear* following = nullptr;   // the linear that runs after the layers, if it is known
  std::optional<WantedRows> wanted = {};  // without it all are
};

class DecoderStep {
 public:
  DecoderStep(const StepShape& shape, std::vector<StepLayer> layers);

  // Throws std::invalid_argument for a position or slot out of range, before anything is written.
  void run(const StepRows& rows);
  // A norm of the kind that the layers have; out must not be x.
  void norm(const StepNorm& norm, const float* x, int64_t num_rows, float* out) const;
  const StepShape& shape() const { return shape_; }

 private:
  // What is between the kernels of a layer, float32. The first three are [num_rows, hidden_size]; `wide` holds what is
  // inside attention (queries, then qkv, and in its place what attention gives) or inside the MLP: never both at a
  // time.
  struct Scratch {
    std::vector<float> normed, attention_out, mlp_out, wide;
  };

  void check(const StepRows& rows) const;
  void make_room(int64_t num_rows);
  // The two halves of attention: to queries, and keys and values in their slots; from there to what is added.
  void store_keys(const StepRows& rows, size_t index, const float* normed);
  void attend(const StepRows& rows, size_t index, float* out);
  void keep_wanted(StepRows* rows);
  void run_mlp(const StepRows& rows, size_t index, const float* normed, float* out);
  void norm_of_sum(const StepNorm& norm, float* residual, const float* delta, int64_t num_rows, float* out) const;

  const StepShape shape_;
  const std::vector<StepLayer> layers_;
  std::mutex mutex_;  // one run at a time: the scratch is one
  Scratch scratch_;
  AttentionPlan wanted_plan_;
};

}  // namespace specgrove
