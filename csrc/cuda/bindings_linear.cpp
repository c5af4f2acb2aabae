#include "bindings.h"
#include "small_linear.h"

namespace specgrove::cuda {

using py::arg;

void bind_linear(py::module_& module) {
  module.def(
      "small_linear",
      [](Address x, Address weight, Address scales, Address bias, Address out, Address partials, Address counters,
         int64_t num_rows, int64_t in_features, int64_t out_features, int group_size, int num_groups, int num_splits,
         int num_processors, int bits, bool has_mins, bool has_half_scales, DType dtype, Stream stream) {
        small_linear({at<void>(x), at<void>(weight), at<void>(scales), at<float>(bias), at<float>(out),
                      at<float>(partials), at<uint32_t>(counters), num_rows, in_features, out_features, group_size,
                      num_groups, num_splits, num_processors, bits, has_mins, has_half_scales, dtype},
                     stream);
      },
      NoGil(), py::kw_only(), arg("x"), arg("weight"), arg("scales"), arg("bias"), arg("out"), arg("partials"),
      arg("counters"), arg("num_rows"), arg("in_features"), arg("out_features"), arg("group_size"), arg("num_groups"),
      arg("num_splits"), arg("num_processors"), arg("bits"), arg("has_mins"), arg("has_half_scales"), arg("dtype"),
      arg("stream"));
}

}  // namespace specgrove::cuda
