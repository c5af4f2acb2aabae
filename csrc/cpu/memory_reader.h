// Reads memory as fast as this machine can: the measure that a pass's time is compared with.
//
// Owned by benchmarks.bandwidth. The memory lies in huge pages, as packed weights do, and the threads of the kernels
// read it, each its share. One core reads faster from several places at once than from one: its hardware prefetching
// follows each of them within its page.
#pragma once

#include <cstdint>

#include "packed_bytes.h"

namespace specgrove {

class MemoryReader {
 public:
  // Its words of 64 bits are 0, 1, 2 and so on.
  explicit MemoryReader(int64_t num_bytes);

  // Reads all bytes once, each thread in num_streams (1, 4 or 8) streams side by side; returns the sum of their words
  // of 64 bits, which wraps around. Throws std::invalid_argument for another number of streams.
  uint64_t read(int num_streams) const;

 private:
  PackedBytes bytes_;
};

}  // namespace specgrove
