// specgrove.kernels._cuda, and the same for the emulator: tensors cross as addresses, which specgrove/kernels/cuda
// checks, and the stream as the number that torch gives. No call waits for the device.
#include "bindings.h"

#include "../cpu/number_types.h"
#include "launch.h"
#include "norms.h"

namespace specgrove::cuda {
namespace {

void bind_norms(py::module_& module) {
  module.def(
      "rms_norm",
      [](Address residual, Address delta, Address weight, float eps, int64_t num_rows, int64_t size, Address out,
         DType out_dtype, Stream stream) {
        rms_norm(
            {at<float>(residual), at<float>(delta), at<float>(weight), eps, num_rows, size, at<void>(out), out_dtype},
            stream);
      },
      NoGil());
}

}  // namespace
}  // namespace specgrove::cuda

PYBIND11_MODULE(SPECGROVE_CUDA_MODULE, module) {
  namespace py = pybind11;
  py::enum_<specgrove::DType>(module, "DType", py::module_local())
      .value("float32", specgrove::DType::kFloat32)
      .value("bfloat16", specgrove::DType::kBFloat16)
      .value("float16", specgrove::DType::kFloat16);
  specgrove::cuda::bind_norms(module);
  specgrove::cuda::bind_linear(module);
}
