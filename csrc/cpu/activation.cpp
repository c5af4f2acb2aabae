#include "activation.h"

#include <cmath>

#include "clones.h"
#include "rows.h"
#include "vector_math.h"

namespace specgrove {
namespace {

constexpr int64_t kWorkPerElement = 2;  // an exponential costs a few plain operations

// 1 / (1 + e^-x), with the exponential of a negative number so that it can't overflow.
static inline float sigmoid_of(float x) {
  const float e = exp_of(-std::fabs(x));
  return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}

struct Silu {
  float operator()(float x) const { return x * sigmoid_of(x); }
};
struct Gelu {  // arXiv 1606.08415, by the distribution function
  float operator()(float x) const { return x * normal_cdf_of(x); }
};
struct GeluTanh {  // the same paper's approximation: 0.5 * (1 + tanh(u)) is sigmoid(2 * u)
  float operator()(float x) const {
    return x * sigmoid_of(1.595769122f * (x + 0.044715f * x * x * x));  // 2 * sqrt(2 / pi)
  }
};
struct Relu {
  float operator()(float x) const { return x < 0.0f ? 0.0f : x; }
};

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
