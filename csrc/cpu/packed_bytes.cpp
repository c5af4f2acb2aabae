#include "packed_bytes.h"

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <stdexcept>

namespace specgrove {
namespace {

constexpr int64_t kHugePage = 2 << 20;

int64_t whole_pages(int64_t num_bytes) { return (num_bytes + kHugePage - 1) / kHugePage * kHugePage; }

// Mapped, not from the heap: what is freed goes back to the system at once, and the heap isn't torn by large blocks.
void* allocate(int64_t num_bytes) {
  const int64_t num_whole = whole_pages(num_bytes), num_mapped = num_whole + kHugePage;
  void* mapped = mmap(nullptr, num_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  char* first = static_cast<char*>(mapped);
  const int64_t num_before = whole_pages(reinterpret_cast<intptr_t>(first)) - reinterpret_cast<intptr_t>(first);
  if (num_before > 0) munmap(first, num_before);
  if (num_before < kHugePage) munmap(first + num_before + num_whole, kHugePage - num_before);
  // The last page too is huge only where it is full: small linears don't take 2 MiB each.
  madvise(first + num_before, num_bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return first + num_before;
}

}  // namespace

void PackedBytes::Unmap::operator()(void* memory) const { munmap(memory, whole_pages(num_bytes)); }

PackedBytes::PackedBytes(int64_t num_bytes)
    : owned_(allocate(num_bytes), Unmap{num_bytes}),
      data_(static_cast<const char*>(owned_.get())),
      num_bytes_(num_bytes) {}

PackedBytes::PackedBytes(const void* view, int64_t num_bytes)
    : owned_(nullptr, Unmap{0}), data_(static_cast<const char*>(view)), num_bytes_(num_bytes) {
  if (reinterpret_cast<uintptr_t>(view) % kPackedAlignment != 0) {
    throw std::invalid_argument("packed must start at a multiple of 64 bytes");
  }
}

void PackedBytes::copy_to(void* out) const { std::memcpy(out, data_, num_bytes_); }

}  // namespace specgrove
