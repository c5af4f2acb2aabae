// What an op of a program, or a kernel of one, is given: fields by name, as the op's dataclass has them
// (specgrove/program/native_fields.py). So no kind of op needs a binding, and no places in a list can be mixed up.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cpu/any_linear.h"
#include "cpu/number_types.h"

namespace specgrove {

// Numbers of torch's, which keeps them. Without gaps, or not: then nobody here takes them.
struct Tensor {
  void* address = nullptr;
  std::string type = "float32";  // or bfloat16, int32 and so on
  std::vector<int64_t> shape;
  bool is_on_cpu = true;
  bool is_contiguous = true;

  DType dtype() const {
    if (type == "float32") return DType::kFloat32;
    return type == "bfloat16" ? DType::kBFloat16 : DType::kFloat16;
  }
  bool is_float() const { return type == "float32" || type == "bfloat16" || type == "float16"; }
};

// A buffer of a program, and how many numbers of a row it holds for the op.
struct Buffer {
  int64_t place, width;
};

// None is std::monostate; truth values are integers.
using OpField =
    std::variant<std::monostate, Tensor, Buffer, const AnyLinear*, int64_t, double, std::string, std::vector<Buffer>>;
using NamedFields = std::map<std::string, OpField>;

constexpr int64_t kAnySize = -1;
using Shape = std::initializer_list<int64_t>;

// Of one op. All that it is given must be asked for. Throws std::invalid_argument that says what does not fit.
class OpFields {
 public:
  // Of a kernel for a GPU.
  OpFields(const std::string& kind, const NamedFields& fields) : kind_(kind), fields_(fields) {}
  // Of an op of the CPU's: buffers have room for so many numbers of a row each, and tensors lie in its memory.
  OpFields(const std::string& kind, const NamedFields& fields, const std::vector<int64_t>& widths)
      : kind_(kind), fields_(fields), widths_(widths), is_of_cpu_(true) {}

  int64_t integer(const std::string& name) { return get<int64_t>(name); }
  int64_t integer_or(const std::string& name, int64_t other) { return is_none(name) ? other : integer(name); }
  bool truth(const std::string& name) { return integer(name) != 0; }
  float number(const std::string& name) {
    const auto* whole = std::get_if<int64_t>(&found(name));
    return whole == nullptr ? static_cast<float>(get<double>(name)) : static_cast<float>(*whole);
  }
  float number_or(const std::string& name, float other) { return is_none(name) ? other : number(name); }
  const AnyLinear* linear(const std::string& name) { return get<const AnyLinear*>(name); }
  // What one of the texts stands for.
  template <typename T>
  T choice(const std::string& name, const std::vector<std::pair<std::string, T>>& choices) {
    const auto& text = get<std::string>(name);
    std::string all;
    for (const auto& [known, value] : choices) {
      if (text == known) return value;
      all += (all.empty() ? "" : ", ") + known;
    }
    throw std::invalid_argument(name + " must be one of " + all + ", got '" + text + "'");
  }

  // Rows of float32, bfloat16 or float16.
  Tensor table(const std::string& name, Shape shape) {
    const Tensor& tensor = contiguous(name);
    if (!tensor.is_float()) throw type_error(name, "float32, bfloat16 or float16", tensor);
    check_shape(name, tensor, shape);
    return tensor;
  }
  // Numbers of exactly this type.
  template <typename T>
  T* numbers(const std::string& name, Shape shape) {
    const Tensor& tensor = contiguous(name);
    if (tensor.type != type_name(static_cast<T*>(nullptr))) {
      throw type_error(name, type_name(static_cast<T*>(nullptr)), tensor);
    }
    check_shape(name, tensor, shape);
    return static_cast<T*>(tensor.address);
  }
  // Null where there are none.
  template <typename T>
  T* numbers_or_null(const std::string& name, Shape shape) {
    return is_none(name) ? nullptr : numbers<T>(name, shape);
  }
  const std::vector<int64_t>& shape(const std::string& name) { return get<Tensor>(name).shape; }
  // A field that is not given is none, too.
  bool is_none(const std::string& name) {
    read_.insert(name);
    const auto field = fields_.find(name);
    return field == fields_.end() || std::holds_alternative<std::monostate>(field->second);
  }

  Buffer buffer(const std::string& name) { return checked(get<Buffer>(name)); }
  std::vector<Buffer> buffers(const std::string& name) {
    auto all = get<std::vector<Buffer>>(name);
    for (const Buffer& each : all) checked(each);
    return all;
  }

  // What somebody else has looked at.
  void leave(std::initializer_list<const char*> names) { read_.insert(names.begin(), names.end()); }
  void check_all_read() const {
    for (const auto& field : fields_) {
      if (read_.count(field.first) == 0) throw std::invalid_argument(kind_ + " has no field " + field.first);
    }
  }

 private:
  static std::string type_name(const float*) { return "float32"; }
  static std::string type_name(const int32_t*) { return "int32"; }
  static std::string type_name(const int64_t*) { return "int64"; }

  const OpField& found(const std::string& name) {
    const auto field = fields_.find(name);
    if (field == fields_.end()) throw std::invalid_argument(kind_ + " needs a field " + name);
    read_.insert(name);
    return field->second;
  }
  template <typename T>
  const T& get(const std::string& name) {
    const T* const value = std::get_if<T>(&found(name));
    if (value == nullptr) throw std::invalid_argument(kind_ + ": the field " + name + " is of another type");
    return *value;
  }
  const Tensor& contiguous(const std::string& name) {
    const auto& tensor = get<Tensor>(name);
    if (is_of_cpu_ && !tensor.is_on_cpu) throw std::invalid_argument(name + " must be a tensor of the CPU's");
    if (!tensor.is_contiguous) throw std::invalid_argument(name + " must be contiguous");
    return tensor;
  }
  static std::invalid_argument type_error(const std::string& name, const std::string& wanted, const Tensor& tensor) {
    return std::invalid_argument(name + " must be contiguous " + wanted + ", got " + tensor.type);
  }
  template <typename Sizes>
  static std::string text_of(const Sizes& sizes) {
    std::string text;
    for (const int64_t size : sizes) {
      text += (text.empty() ? "" : ", ") + (size == kAnySize ? "any" : std::to_string(size));
    }
    return "[" + text + "]";
  }
  static void check_shape(const std::string& name, const Tensor& tensor, Shape shape) {
    bool fits = tensor.shape.size() == shape.size();
    for (size_t i = 0; fits && i < shape.size(); ++i) {
      fits = shape.begin()[i] == kAnySize || shape.begin()[i] == tensor.shape[i];
    }
    if (!fits) {
      throw std::invalid_argument(name + " must have the shape " + text_of(shape) + ", got " + text_of(tensor.shape));
    }
  }
  Buffer checked(const Buffer& buffer) const {
    if (buffer.place < 0 || buffer.place >= static_cast<int64_t>(widths_.size())) {
      throw std::invalid_argument(kind_ + ": there is no buffer " + std::to_string(buffer.place));
    }
    const int64_t room = widths_[buffer.place];
    if (buffer.width >= 0 && buffer.width <= room) return buffer;
    throw std::invalid_argument(kind_ + ": buffer " + std::to_string(buffer.place) + " has room for " +
                                std::to_string(room) + " numbers of a row, not for " + std::to_string(buffer.width));
  }

  const std::string& kind_;
  const NamedFields& fields_;
  const std::vector<int64_t> widths_{};
  const bool is_of_cpu_ = false;
  std::set<std::string> read_;
};

}  // namespace specgrove
