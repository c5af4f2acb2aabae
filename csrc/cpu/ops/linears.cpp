// Products with weights, and what is chosen from the last one.
#include "../op.h"

namespace specgrove {
namespace {

const OpKind kMultiply("Multiply", [](OpFields& fields) -> Op {
  const AnyLinear* const linear = fields.linear("linear");
  return {[linear, out = fields.buffer("out"), x = fields.buffer("x")](Pass& pass) {
            linear->forward(pass.at(x), pass.num_rows, pass.at(out));
          },
          linear};
});

const OpKind kChoose("Choose", [](OpFields& fields) -> Op {
  const AnyLinear* const vocab = fields.linear("vocab");
  return {[vocab, x = fields.buffer("x"), soft_cap = fields.number_or("soft_cap", 0.0f)](Pass& pass) {
            pass.choices.begin(pass.given.asked, soft_cap);
            vocab->forward_to(pass.at(x), pass.num_rows, &pass.choices);
          },
          vocab};
});

}  // namespace
}  // namespace specgrove
