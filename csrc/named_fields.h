// Fields of an op from Python: tensors of torch's as they are, so that nobody takes addresses out of them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "op_fields.h"

namespace pybind11::detail {

template <>
struct type_caster<specgrove::Tensor> {
  PYBIND11_TYPE_CASTER(specgrove::Tensor, const_name("torch.Tensor"));

  bool load(handle source, bool) {
    if (!hasattr(source, "data_ptr")) return false;
    value.address = reinterpret_cast<void*>(source.attr("data_ptr")().cast<uintptr_t>());
    value.type = str(source.attr("dtype")).cast<std::string>().substr(std::string("torch.").size());
    value.shape = source.attr("shape").cast<std::vector<int64_t>>();
    value.is_on_cpu = source.attr("is_cpu").cast<bool>();
    value.is_contiguous = source.attr("is_contiguous")().cast<bool>();
    return true;
  }
};

}  // namespace pybind11::detail
