// Activation functions of the MLPs, alone and as the gate of a product: element by element.
#include "../activation_functions.h"
#include "../clones.h"
#include "../op.h"
#include "../rows.h"

namespace specgrove {
namespace {

constexpr int64_t kWorkPerElement = 2;  // an exponential costs a few plain operations

// Inlined into each of the clones below, so that it is made with their instructions.
template <typename Function>
[[gnu::always_inline]] inline void each(const Function& function, const float* x, int64_t size, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = function(x[i]);
}
template <typename Function>
[[gnu::always_inline]] inline void each(const Function& function, const float* gate, const float* up, int64_t size,
                                        float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = function(gate[i]) * up[i];
}

SPECGROVE_CLONES void activate_row(const float* x, Activation activation, int64_t size, float* out) {
  switch (activation) {
    case Activation::kSilu:
      return each(Silu(), x, size, out);
    case Activation::kGelu:
      return each(Gelu(), x, size, out);
    case Activation::kGeluTanh:
      return each(GeluTanh(), x, size, out);
    case Activation::kRelu:
      return each(Relu(), x, size, out);
  }
}

SPECGROVE_CLONES void gated_row(const float* gate, const float* up, Activation activation, int64_t size, float* out) {
  switch (activation) {
    case Activation::kSilu:
      return each(Silu(), gate, up, size, out);
    case Activation::kGelu:
      return each(Gelu(), gate, up, size, out);
    case Activation::kGeluTanh:
      return each(GeluTanh(), gate, up, size, out);
    case Activation::kRelu:
      return each(Relu(), gate, up, size, out);
  }
}

const OpKind kActivate("Activate", [](OpFields& fields) -> Op {
  const Buffer out = fields.buffer("out"), x = fields.buffer("x");
  const auto activation = fields.choice("activation", activation_names());
  const bool is_gated = fields.truth("is_gated");
  fields.leave({"size"});
  return {[=](Pass& pass) {
    const int64_t size = out.width;
    for_rows(pass.num_rows, 2 * kWorkPerElement * size,
             [=, numbers = pass.at(x), activated = pass.at(out)](int64_t row) {
               const float* const own = numbers + row * x.width;
               if (is_gated) {
                 gated_row(own, own + size, activation, size, activated + row * size);
               } else {
                 activate_row(own, activation, size, activated + row * size);
               }
             });
  }};
});

}  // namespace
}  // namespace specgrove
