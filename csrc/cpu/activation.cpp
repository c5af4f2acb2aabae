#include "activation.h"

#include "activation_functions.h"
#include "clones.h"
#include "rows.h"

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

}  // namespace

void activate(const float* x, Activation activation, int64_t num_rows, int64_t size, float* out) {
  for_rows(num_rows, 2 * kWorkPerElement * size,
           [=](int64_t row) { activate_row(x + row * size, activation, size, out + row * size); });
}

void gated(const float* gate_up, Activation activation, int64_t num_rows, int64_t size, float* out) {
  for_rows(num_rows, 2 * kWorkPerElement * size, [=](int64_t row) {
    const float* gate = gate_up + row * 2 * size;
    gated_row(gate, gate + size, activation, size, out + row * size);
  });
}

}  // namespace specgrove
