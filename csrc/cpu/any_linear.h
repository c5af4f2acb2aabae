// What linears of all kinds of packed weights have in common, for code that runs layers without knowing their weights.
#pragma once

#include <cstdint>

namespace specgrove {

class AnyLinear {
 public:
  virtual ~AnyLinear() = default;

  // x[rows, in_features] -> out[rows, out_features], float32. A row's bits don't depend on how many rows there are.
  virtual void forward(const float* x, int64_t num_rows, float* out) const = 0;

  // It runs soon: threads that have nothing to do till then fetch its weights into their caches.
  virtual void read_ahead() const = 0;
};

}  // namespace specgrove
