// The memory of packed weights: allocated in huge pages, or somebody else's, such as a window of weights that are
// streamed from a file. Whoever gives a view keeps it alive and unchanged for as long as this lives.
//
// Weights packed one after another share huge pages: most are smaller than one, and a step that reads all of them from
// pages of 4 KiB takes a third longer.
#pragma once

#include <cstdint>
#include <memory>

namespace specgrove {

constexpr int64_t kPackedAlignment = 64;  // bytes; vectors of packed weights are read whole

class PackedBytes {
 public:
  explicit PackedBytes(int64_t num_bytes);
  // A view. Throws std::invalid_argument unless it starts at a multiple of kPackedAlignment.
  PackedBytes(const void* view, int64_t num_bytes);

  const char* data() const { return data_; }
  void* owned() const { return owned_.get(); }  // where to write while packing; null for a view
  int64_t size() const { return num_bytes_; }
  void copy_to(void* out) const;
  void read_ahead() const;  // by threads of the pool that have nothing to do

 private:
  struct Free {
    int64_t num_bytes;
    void operator()(void* memory) const;
  };
  std::unique_ptr<void, Free> owned_;
  const char* data_;
  int64_t num_bytes_;
};

}  // namespace specgrove
