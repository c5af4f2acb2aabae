// A linear that leaves the work to another and counts its rows: for tests of what is not computed.
#pragma once

#include "any_linear.h"

namespace specgrove {

class CountedLinear : public AnyLinear {
 public:
  // The other must outlive it.
  explicit CountedLinear(const AnyLinear* linear) : linear_(linear) {}

  int64_t out_features() const override { return linear_->out_features(); }
  int64_t num_rows() const { return num_rows_; }
  void read_ahead() const override { linear_->read_ahead(); }

 protected:
  void multiply(const float* x, int64_t num_rows, float* out, TileSink* sink) const override {
    num_rows_ += num_rows;
    sink == nullptr ? linear_->forward(x, num_rows, out) : linear_->forward_to(x, num_rows, sink);
  }

 private:
  const AnyLinear* const linear_;
  mutable int64_t num_rows_ = 0;
};

}  // namespace specgrove
