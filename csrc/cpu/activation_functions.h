// The activation functions of one number.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "vector_math.h"

namespace specgrove {

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };

// As specgrove/kernels/activations.py names them.
inline std::vector<std::pair<std::string, Activation>> activation_names() {
  return {{"silu", Activation::kSilu},
          {"gelu", Activation::kGelu},
          {"gelu_tanh", Activation::kGeluTanh},
          {"relu", Activation::kRelu}};
}

// 1 / (1 + e^-x), with the exponential of a negative number so that it can't overflow.
SPECGROVE_ANYWHERE static inline float sigmoid_of(float x) {
  const float e = exp_of(-std::fabs(x));
  return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}

struct Silu {
  SPECGROVE_ANYWHERE float operator()(float x) const { return x * sigmoid_of(x); }
};
struct Gelu {  // arXiv 1606.08415, by the distribution function
  SPECGROVE_ANYWHERE float operator()(float x) const { return x * normal_cdf_of(x); }
};
struct GeluTanh {  // the same paper's approximation: 0.5 * (1 + tanh(u)) is sigmoid(2 * u)
  SPECGROVE_ANYWHERE float operator()(float x) const {
    return x * sigmoid_of(1.595769122f * (x + 0.044715f * x * x * x));  // 2 * sqrt(2 / pi)
  }
};
struct Relu {
  SPECGROVE_ANYWHERE float operator()(float x) const { return x < 0.0f ? 0.0f : x; }
};

}  // namespace specgrove
