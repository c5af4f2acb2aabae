// What an op of a program is made of, by name: from Python without a binding for every kind of op, and without places
// in a list that could be mixed up. Addresses, buffers, sizes and truth values are integers.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "activation.h"
#include "any_linear.h"
#include "number_types.h"

namespace specgrove {

using OpField = std::variant<DType, Activation, const AnyLinear*, int64_t, double, std::vector<int64_t>>;

// Of one op. All that it is given must be asked for. Throws std::invalid_argument that says what does not fit.
class OpFields {
 public:
  OpFields(const std::string& kind, const std::map<std::string, OpField>& fields, size_t num_buffers)
      : kind_(kind), fields_(fields), num_buffers_(num_buffers) {}

  template <typename T>
  T get(const std::string& name) {
    const auto found = fields_.find(name);
    if (found == fields_.end()) throw std::invalid_argument(kind_ + " needs a field " + name);
    const T* const value = std::get_if<T>(&found->second);
    if (value == nullptr) throw std::invalid_argument(kind_ + ": the field " + name + " is of another type");
    read_.insert(name);
    return *value;
  }
  int64_t integer(const std::string& name) { return get<int64_t>(name); }
  bool truth(const std::string& name) { return integer(name) != 0; }
  float number(const std::string& name) { return static_cast<float>(get<double>(name)); }
  template <typename T>
  const T* address(const std::string& name) {
    return reinterpret_cast<const T*>(integer(name));
  }
  int64_t buffer(const std::string& name) { return checked_buffer(integer(name)); }
  std::vector<int64_t> buffers(const std::string& name) {
    auto places = get<std::vector<int64_t>>(name);
    for (const int64_t place : places) checked_buffer(place);
    return places;
  }
  void check_all_read() const {
    for (const auto& field : fields_) {
      if (read_.count(field.first) == 0) throw std::invalid_argument(kind_ + " has no field " + field.first);
    }
  }

 private:
  int64_t checked_buffer(int64_t place) const {
    if (place >= 0 && place < static_cast<int64_t>(num_buffers_)) return place;
    throw std::invalid_argument(kind_ + ": there is no buffer " + std::to_string(place));
  }

  const std::string& kind_;
  const std::map<std::string, OpField>& fields_;
  const size_t num_buffers_;
  std::set<std::string> read_;
};

}  // namespace specgrove
