// What linears of all kinds of packed weights have in common, for code that runs layers without knowing their weights.
#pragma once

#include <cstdint>

namespace specgrove {

// Some outputs of all rows.
struct OutputTile {
  const float* values;  // of the first row
  int64_t row_stride;
  int64_t first_output, num_outputs;
};

// Takes outputs as they are made, from several threads at once.
class TileSink {
 public:
  virtual ~TileSink() = default;
  virtual void take(const OutputTile& tile) = 0;
};

class AnyLinear {
 public:
  virtual ~AnyLinear() = default;

  virtual int64_t out_features() const = 0;

  // x[rows, in_features] -> out[rows, out_features], float32. A row's bits don't depend on how many rows there are.
  void forward(const float* x, int64_t num_rows, float* out) const { multiply(x, num_rows, out, nullptr); }
  // The same outputs, tile by tile while they are in a cache: none is written to memory.
  void forward_to(const float* x, int64_t num_rows, TileSink* sink) const { multiply(x, num_rows, nullptr, sink); }

  // It runs soon: threads that have nothing to do till then fetch its weights into their caches.
  virtual void read_ahead() const = 0;

 protected:
  // To the sink, or without one to out.
  virtual void multiply(const float* x, int64_t num_rows, float* out, TileSink* sink) const = 0;
};

}  // namespace specgrove
