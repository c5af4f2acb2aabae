// Ops that move whole rows.
#include <algorithm>

#include "../op.h"

namespace specgrove {
namespace {

const OpKind kConcat("Concat", [](OpFields& fields) -> Op {
  return {[out = fields.buffer("out"), parts = fields.buffers("parts")](Pass& pass) {
    float* place = pass.at(out);
    for (int64_t row = 0; row < pass.num_rows; ++row) {
      for (const Buffer& part : parts) {
        place = std::copy_n(pass.at(part) + row * part.width, part.width, place);
      }
    }
  }};
});

// Asked rows rise, so each moves to a place that is free or its own.
const OpKind kTakeRows("TakeRows", [](OpFields& fields) -> Op {
  return {[buffers = fields.buffers("buffers")](Pass& pass) {
    const int64_t num_asked = static_cast<int64_t>(pass.given.asked.size());
    if (num_asked == pass.num_rows) return;
    for (const Buffer& buffer : buffers) {
      float* const values = pass.at(buffer);
      for (int64_t i = 0; i < num_asked; ++i) {
        const int64_t row = pass.given.asked_rows[i];
        if (row != i) std::copy_n(values + row * buffer.width, buffer.width, values + i * buffer.width);
      }
    }
    pass.plan_of_asked.select(*pass.plan, pass.given.asked_rows, num_asked);
    pass.plan = &pass.plan_of_asked;
    pass.num_rows = num_asked;
  }};
});

const OpKind kKeepHidden("KeepHidden", [](OpFields& fields) -> Op {
  fields.leave({"width"});
  return {[x = fields.buffer("x"), place = fields.integer("place")](Pass& pass) {
    std::copy_n(pass.at(x), pass.num_rows * x.width, reinterpret_cast<float*>(pass.given.kept.at(place)));
  }};
});

}  // namespace
}  // namespace specgrove
