// Where hidden states come from: rows of tables by token id and by position, or from outside.
#include <algorithm>
#include <type_traits>

#include "../clones.h"
#include "../op.h"

namespace specgrove {
namespace {

SPECGROVE_CLONES void convert(const BFloat16* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = to_float(x[i]);
}
SPECGROVE_CLONES void convert(const Float16* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = to_float(x[i]);
}
void convert(const float* x, int64_t count, float* out) { std::copy_n(x, count, out); }

const OpKind kEmbed("Embed", [](OpFields& fields) -> Op {
  const Buffer out = fields.buffer("out");
  const Tensor table = fields.table("table", {kAnySize, out.width});
  const int64_t first_id = fields.integer("first_id"), num_ids = table.shape[0];
  const float scale = fields.number("scale");
  return {[=](Pass& pass) {
    with_type(table.dtype(), [&](auto* type) {
      const auto* rows = static_cast<const std::remove_pointer_t<decltype(type)>*>(table.address);
      float* place = pass.at(out);
      for (int64_t row = 0; row < pass.num_rows; ++row, place += out.width) {
        const int64_t id = pass.given.token_ids[row] - first_id;
        if (id < 0 || id >= num_ids) {
          std::fill_n(place, out.width, 0.0f);
          continue;
        }
        convert(rows + id * out.width, out.width, place);
        if (scale == 1.0f) continue;
        for (int64_t i = 0; i < out.width; ++i) place[i] *= scale;
      }
    });
  }};
});

const OpKind kAddPositions("AddPositions", [](OpFields& fields) -> Op {
  const Buffer x = fields.buffer("x");
  const Tensor table = fields.table("table", {kAnySize, x.width});
  return {[=](Pass& pass) {
    with_type(table.dtype(), [&](auto* type) {
      const auto* rows = static_cast<const std::remove_pointer_t<decltype(type)>*>(table.address);
      float* place = pass.at(x);
      for (int64_t row = 0; row < pass.num_rows; ++row, place += x.width) {
        const auto* learned = rows + pass.given.positions[row] * x.width;
        for (int64_t i = 0; i < x.width; ++i) place[i] += to_float(learned[i]);
      }
    });
  }};
});

const OpKind kInput("Input", [](OpFields& fields) -> Op {
  const Buffer out = fields.buffer("out");
  fields.leave({"width"});
  return {[=](Pass& pass) { std::copy_n(pass.given.hidden, pass.num_rows * out.width, pass.at(out)); }};
});

}  // namespace
}  // namespace specgrove
