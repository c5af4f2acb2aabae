#include "../clones.h"
#include "../op.h"
#include "../rows.h"

namespace specgrove {
namespace {

SPECGROVE_CLONES void scale_row(float factor, int64_t size, float* x) {
  for (int64_t i = 0; i < size; ++i) x[i] *= factor;
}

const OpKind kScale("Scale", [](OpFields& fields) -> Op {
  const Buffer x = fields.buffer("x");
  const float factor = fields.number("factor");
  return {[=](Pass& pass) {
    for_rows(pass.num_rows, x.width,
             [=, first = pass.at(x)](int64_t row) { scale_row(factor, x.width, first + row * x.width); });
  }};
});

}  // namespace
}  // namespace specgrove
