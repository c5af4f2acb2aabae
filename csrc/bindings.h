// What the files that bind kernels to Python share.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace specgrove {

namespace py = pybind11;

using Address = uintptr_t;
// Of functions only. As the guard of a constructor it would last until pybind11 has put the object into its table of
// instances, which other threads change too. A constructor releases the GIL within itself.
using NoGil = py::call_guard<py::gil_scoped_release>;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

void bind_program(py::module_& module);

}  // namespace specgrove
