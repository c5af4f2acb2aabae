// Memory for what lies between kernels. It grows to the most that was asked for and stays: a steady state allocates
// nothing.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace specgrove {

// Starts at a cache line: a tile's row that lies in two of them is loaded at half the speed.
template <typename T>
class Scratch {
 public:
  // Room for count elements, which hold anything. Valid until the next call.
  T* room(int64_t count) {
    if (count > size_) {
      memory_.reset();
      const int64_t num_bytes = (count * static_cast<int64_t>(sizeof(T)) + kLine - 1) / kLine * kLine;
      memory_.reset(static_cast<T*>(std::aligned_alloc(kLine, num_bytes)));
      size_ = memory_ == nullptr ? 0 : count;
      if (memory_ == nullptr) throw std::bad_alloc();
    }
    return memory_.get();
  }

 private:
  static constexpr int64_t kLine = 64;  // bytes
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t size_ = 0;
};

}  // namespace specgrove
