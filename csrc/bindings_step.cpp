// The decoder step for Python. Named arguments: its constructors have many.
#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "bindings.h"
#include "cpu/decoder_step.h"

namespace specgrove {

using py::arg;

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
  py::class_<DecoderStep>(module, "DecoderStep")
      .def(py::init<const StepShape&, std::vector<StepLayer>>())
      .def(
          "run",
          [](DecoderStep& step, Address hidden, int64_t num_rows, Address positions, Address slots,
             const AttentionPlan& plan, const std::vector<Address>& k_caches, const std::vector<Address>& v_caches,
             DType dtype, int64_t num_slots) {
            step.run({at<float>(hidden), num_rows, at<int32_t>(positions), at<int32_t>(slots), &plan, &k_caches,
                      &v_caches, dtype, num_slots});
          },
          NoGil());
}

}  // namespace specgrove
