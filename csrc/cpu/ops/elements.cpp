// Ops whose numbers have nothing to do with one another.
#include "../clones.h"
#include "../op.h"
#include "../rows.h"

namespace specgrove {
namespace {

SPECGROVE_CLONES void add_row(const float* delta, int64_t size, float* sum) {
  for (int64_t i = 0; i < size; ++i) sum[i] += delta[i];
}

SPECGROVE_CLONES void clip_row(float* x, float limit, int64_t size) {
  for (int64_t i = 0; i < size; ++i) x[i] = x[i] < -limit ? -limit : x[i] > limit ? limit : x[i];
}

const OpKind kAdd("Add", [](OpFields& fields) -> Op {
  const Buffer x = fields.buffer("x"), delta = fields.buffer("delta");
  return {[=](Pass& pass) {
    for_rows(pass.num_rows, x.width, [=, sum = pass.at(x), added = pass.at(delta)](int64_t row) {
      add_row(added + row * x.width, x.width, sum + row * x.width);
    });
  }};
});

const OpKind kClip("Clip", [](OpFields& fields) -> Op {
  const Buffer x = fields.buffer("x");
  const float limit = fields.number("limit");
  return {[=](Pass& pass) {
    for_rows(pass.num_rows, x.width,
             [=, first = pass.at(x)](int64_t row) { clip_row(first + row * x.width, limit, x.width); });
  }};
});

}  // namespace
}  // namespace specgrove
