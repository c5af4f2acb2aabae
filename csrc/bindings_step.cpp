// The decoder step for Python. Named arguments: its constructors have many.
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "cpu/decoder_step.h"
#include "cpu/model_step.h"
#include "cpu/sampling.h"

namespace specgrove {

using py::arg;

namespace {

// The caches of all layers: checked and listed once, used in every step.
struct StepCaches {
  std::vector<uintptr_t> keys, values;
  DType dtype;
  int64_t num_slots;
};

StepRows rows_of(Address hidden, int64_t num_rows, Address positions, Address slots, const AttentionPlan& plan,
                 const StepCaches& caches) {
  return {at<float>(hidden), num_rows,       at<int32_t>(positions), at<int32_t>(slots), &plan,
          &caches.keys,      &caches.values, caches.dtype,           caches.num_slots};
}

// Rows without parameters of a choice get logits, one after the other from logits on.
std::vector<AskedRow> asked_rows(const std::vector<std::optional<std::tuple<ChoiceParams, uint64_t>>>& choices,
                                 float* logits, int64_t vocab_size) {
  std::vector<AskedRow> asked;
  asked.reserve(choices.size());
  for (const auto& choice : choices) {
    if (choice.has_value()) {
      const auto& [params, position] = *choice;
      asked.push_back({nullptr, params.temperature, params.seed, position});
    } else {
      asked.push_back({logits, 0.0f, 0, 0});
      logits += vocab_size;
    }
  }
  return asked;
}

void bind_model_step(py::module_& module) {
  py::class_<StepEmbedding>(module, "StepEmbedding")
      .def(py::init([](Address table, Address positions, DType dtype, int64_t vocab_size, int64_t size,
                       int64_t num_positions, float scale, const AnyLinear* projection) {
             return StepEmbedding{at<void>(table), at<void>(positions), dtype, vocab_size, size, num_positions,
                                  scale,           projection};
           }),
           py::kw_only(), arg("table"), arg("positions"), arg("dtype"), arg("vocab_size"), arg("size"),
           arg("num_positions"), arg("scale"), arg("projection"));
  py::class_<StepHead>(module, "StepHead")
      .def(py::init([](const StepNorm& norm, const AnyLinear* projection, const AnyLinear& vocab, int64_t size) {
             return StepHead{norm, projection, &vocab, size};
           }),
           py::kw_only(), arg("norm"), arg("projection"), arg("vocab"), arg("size"));
  py::class_<ModelStep>(module, "ModelStep")
      .def(py::init<const StepEmbedding&, DecoderStep*, const StepHead&>(), py::keep_alive<1, 3>())
      .def(
          "run",
          [](ModelStep& step, Address token_ids, int64_t num_rows, Address positions, Address slots,
             const AttentionPlan& plan, const StepCaches& caches, Address asked,
             const std::vector<std::optional<std::tuple<ChoiceParams, uint64_t>>>& choices, Address logits,
             int64_t vocab_size) {
            ModelRows rows{at<int64_t>(token_ids), rows_of(0, num_rows, positions, slots, plan, caches),
                           at<int64_t>(asked), asked_rows(choices, at<float>(logits), vocab_size)};
            return step.run(&rows);
          },
          NoGil());
}

}  // namespace

void bind_step(py::module_& module) {
  py::enum_<Residual>(module, "Residual")
      .value("pre_norm", Residual::kPreNorm)
      .value("post_norm", Residual::kPostNorm)
      .value("parallel", Residual::kParallel);
  py::class_<StepShape>(module, "StepShape")
      .def(py::init([](int64_t hidden_size, int64_t inner_size, int64_t num_heads, int64_t num_kv_heads,
                       int64_t head_dim, bool is_rms, float norm_eps, Activation activation, bool is_gated,
                       Residual residual, float attention_scale, std::optional<float> qkv_clip, Address alibi_slopes) {
             return StepShape{hidden_size,
                              inner_size,
                              num_heads,
                              num_kv_heads,
                              head_dim,
                              is_rms,
                              norm_eps,
                              activation,
                              is_gated,
                              residual,
                              attention_scale,
                              qkv_clip,
                              at<float>(alibi_slopes)};
           }),
           py::kw_only(), arg("hidden_size"), arg("inner_size"), arg("num_heads"), arg("num_kv_heads"), arg("head_dim"),
           arg("is_rms"), arg("norm_eps"), arg("activation"), arg("is_gated"), arg("residual"), arg("attention_scale"),
           arg("qkv_clip"), arg("alibi_slopes"));
  py::class_<StepNorm>(module, "StepNorm").def(py::init([](Address scale, Address shift) {
    return StepNorm{at<float>(scale), at<float>(shift)};
  }));
  py::class_<StepLayer>(module, "StepLayer")
      .def(py::init([](const AnyLinear& qkv, const AnyLinear& out, const AnyLinear& up, const AnyLinear& down,
                       const StepNorm& attention_norm, const StepNorm& mlp_norm, const StepNorm& attention_out_norm,
                       const StepNorm& mlp_out_norm, Address q_norm, Address k_norm, Address cos_sin,
                       int64_t max_positions, std::optional<int64_t> window) {
             return StepLayer{&qkv,
                              &out,
                              &up,
                              &down,
                              attention_norm,
                              mlp_norm,
                              attention_out_norm,
                              mlp_out_norm,
                              at<float>(q_norm),
                              at<float>(k_norm),
                              at<float>(cos_sin),
                              max_positions,
                              window.value_or(std::numeric_limits<int64_t>::max())};
           }),
           py::kw_only(), arg("qkv"), arg("out"), arg("up"), arg("down"), arg("attention_norm"), arg("mlp_norm"),
           arg("attention_out_norm"), arg("mlp_out_norm"), arg("q_norm"), arg("k_norm"), arg("cos_sin"),
           arg("max_positions"), arg("window"));
  py::class_<StepCaches>(module, "StepCaches")
      .def(py::init([](std::vector<Address> keys, std::vector<Address> values, DType dtype, int64_t num_slots) {
        return StepCaches{std::move(keys), std::move(values), dtype, num_slots};
      }));
  py::class_<DecoderStep>(module, "DecoderStep")
      .def(py::init<const StepShape&, std::vector<StepLayer>>())
      .def(
          "run",
          [](DecoderStep& step, Address hidden, int64_t num_rows, Address positions, Address slots,
             const AttentionPlan& plan,
             const StepCaches& caches) { step.run(rows_of(hidden, num_rows, positions, slots, plan, caches)); },
          NoGil());
  bind_model_step(module);
}

}  // namespace specgrove
