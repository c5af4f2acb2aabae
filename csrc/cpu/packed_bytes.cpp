#include "packed_bytes.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

namespace specgrove {
namespace {

constexpr int64_t kHugePage = 2 << 20;

void* allocate(int64_t num_bytes) {
  const int64_t num_whole = (num_bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = std::aligned_alloc(kHugePage, num_whole);
  if (memory == nullptr) throw std::bad_alloc();
  madvise(memory, num_whole, MADV_HUGEPAGE);
  return memory;
}

}  // namespace

PackedBytes::PackedBytes(int64_t num_bytes)
    : owned_(allocate(num_bytes)), data_(static_cast<const char*>(owned_.get())), num_bytes_(num_bytes) {}

PackedBytes::PackedBytes(const void* view, int64_t num_bytes)
    : data_(static_cast<const char*>(view)), num_bytes_(num_bytes) {
  if (reinterpret_cast<uintptr_t>(view) % kPackedAlignment != 0) {
    throw std::invalid_argument("packed must start at a multiple of 64 bytes");
  }
}

void PackedBytes::copy_to(void* out) const { std::memcpy(out, data_, num_bytes_); }

}  // namespace specgrove
