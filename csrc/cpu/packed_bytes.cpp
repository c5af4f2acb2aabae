#include "packed_bytes.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>

#include "thread_pool.h"

namespace specgrove {
namespace {

constexpr int64_t kPage = 4 << 10;
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kArena = 32 << 20;

int64_t round_up_to(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Mapped, not from the heap, so that the heap isn't torn by large blocks. Pages are taken when they are written to.
char* map_huge(int64_t num_bytes) {
  const int64_t num_mapped = num_bytes + kHugePage;
  void* mapped = mmap(nullptr, num_mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  const intptr_t start = reinterpret_cast<intptr_t>(mapped), first = round_up_to(start, kHugePage);
  const int64_t num_before = first - start;
  if (num_before > 0) munmap(mapped, num_before);
  if (num_before < kHugePage) munmap(reinterpret_cast<void*>(first + num_bytes), kHugePage - num_before);
  madvise(reinterpret_cast<void*>(first), num_bytes, MADV_HUGEPAGE);
  return reinterpret_cast<char*>(first);
}

// Blocks are cut from arenas one after another; only the newest arena is cut from. Freed blocks go back to the system
// at once, all but parts of pages, and the place of the last block is used again.
class Arenas {
 public:
  void* allocate(int64_t num_bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t needed = std::max(round_up_to(num_bytes, kPackedAlignment), kPackedAlignment);
    auto found = arenas_.find(newest_);
    if (found == arenas_.end() || found->second.size - found->second.used < needed) {
      const int64_t size = std::max(kArena, round_up_to(needed, kHugePage));
      newest_ = map_huge(size);
      found = arenas_.emplace(newest_, Arena{size, 0, 0}).first;
    }
    Arena& arena = found->second;
    char* block = found->first + arena.used;
    arena.used += needed;
    ++arena.num_blocks;
    return block;
  }

  void free(void* memory, int64_t num_bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t needed = std::max(round_up_to(num_bytes, kPackedAlignment), kPackedAlignment);
    char* block = static_cast<char*>(memory);
    const auto found = std::prev(arenas_.upper_bound(block));
    Arena& arena = found->second;
    if (--arena.num_blocks == 0) {
      munmap(found->first, arena.size);
      arenas_.erase(found);
      return;
    }
    const int64_t start = block - found->first, end = start + needed;
    if (end == arena.used) arena.used = start;
    const int64_t first_page = round_up_to(start, kPage), end_page = end / kPage * kPage;
    if (end_page > first_page) madvise(found->first + first_page, end_page - first_page, MADV_DONTNEED);
  }

 private:
  struct Arena {
    int64_t size, used, num_blocks;  // bytes, but for the last
  };
  std::mutex mutex_;
  std::map<char*, Arena> arenas_;  // by where they start
  char* newest_ = nullptr;
};

Arenas& arenas() {
  static Arenas* all = new Arenas;  // never destroyed: weights may outlive static objects
  return *all;
}

}  // namespace

void PackedBytes::Free::operator()(void* memory) const { arenas().free(memory, num_bytes); }

PackedBytes::PackedBytes(int64_t num_bytes)
    : owned_(arenas().allocate(num_bytes), Free{num_bytes}),
      data_(static_cast<const char*>(owned_.get())),
      num_bytes_(num_bytes) {}

PackedBytes::PackedBytes(const void* view, int64_t num_bytes)
    : owned_(nullptr, Free{0}), data_(static_cast<const char*>(view)), num_bytes_(num_bytes) {
  if (reinterpret_cast<uintptr_t>(view) % kPackedAlignment != 0) {
    throw std::invalid_argument("packed must start at a multiple of 64 bytes");
  }
}

void PackedBytes::read_ahead() const { ThreadPool::instance().read_ahead(data_, num_bytes_); }

void PackedBytes::copy_to(void* out) const { std::memcpy(out, data_, num_bytes_); }

}  // namespace specgrove
