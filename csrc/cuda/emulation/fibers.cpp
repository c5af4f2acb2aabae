#include "fibers.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace specgrove::cuda::emulation {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr unsigned kWarp = 32;
constexpr unsigned char kPoison = 0xff;  // a NaN in every type

struct Copy {
  void* target;
  const void* source;
  size_t num_bytes;
  bool is_valid;
};

// Some threads that wait until all of them wait.
struct Barrier {
  unsigned num_threads = 0, num_waiting = 0;
  uint64_t generation = 0;
};

struct Fiber {
  Index index{};
  ucontext_t start{};
  jmp_buf place{};
  std::unique_ptr<unsigned char[]> stack;
  bool has_started = false, has_ended = false;
  std::vector<Copy> open_group;
  std::deque<std::vector<Copy>> groups;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Barrier> warps;
  Barrier whole;
  std::vector<unsigned char> shared;
  size_t shared_bytes = 0;
  std::vector<unsigned char> lane_places;  // [warps][lanes][kLaneBytes]
  Fiber* running = nullptr;
  jmp_buf scheduler{};
  const std::function<void()>* kernel = nullptr;
  std::string failure;
};

Block* block = nullptr;

void run_fiber() {
  try {
    (*block->kernel)();
  } catch (const std::exception& error) {
    block->failure = error.what();
  }
  block->running->has_ended = true;
  _longjmp(block->scheduler, 1);
}

void yield() {
  if (_setjmp(block->running->place) == 0) _longjmp(block->scheduler, 1);
}

// Runs a fiber until it yields or ends. Only the first entry needs a system call.
void resume(Fiber* fiber) {
  block->running = fiber;
  thread_index = fiber->index;
  if (_setjmp(block->scheduler) != 0) return;
  if (fiber->has_started) _longjmp(fiber->place, 1);
  fiber->has_started = true;
  setcontext(&fiber->start);
}

void wait_at(Barrier* barrier) {
  const uint64_t generation = barrier->generation;
  if (++barrier->num_waiting == barrier->num_threads) {
    barrier->num_waiting = 0;
    ++barrier->generation;
    return;
  }
  while (barrier->generation == generation) yield();
}

uint64_t progress() {
  uint64_t sum = block->whole.generation;
  for (const Barrier& warp : block->warps) sum += warp.generation;
  for (const Fiber& fiber : block->fibers) sum += fiber.has_ended;
  return sum;
}

void run_threads(bool is_backwards) {
  const size_t num_threads = block->fibers.size();
  uint64_t before = 0;
  for (bool is_first = true;; is_first = false) {
    size_t num_left = 0;
    for (size_t i = 0; i < num_threads; ++i) {
      Fiber& fiber = block->fibers[is_backwards ? num_threads - 1 - i : i];
      if (fiber.has_ended) continue;
      resume(&fiber);
      if (!block->failure.empty()) throw std::runtime_error(block->failure);
      num_left += !fiber.has_ended;
    }
    if (num_left == 0) return;
    const uint64_t now = progress();
    if (!is_first && now == before) {
      throw std::runtime_error("a kernel's threads wait at a barrier that not all of them reach");
    }
    before = now;
  }
}

}  // namespace

void run_grid(unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned num_threads, size_t shared_bytes,
              const std::function<void()>& kernel) {
  if (num_threads == 0 || num_threads > 1024 || num_threads % kWarp != 0) {
    throw std::runtime_error("a block must have whole warps and at most 1024 threads");
  }
  if (shared_bytes > 227 * 1024) throw std::runtime_error("a block has at most 227 KiB of shared memory");
  static std::mutex one_at_a_time;  // who runs is known by globals
  const std::lock_guard<std::mutex> running(one_at_a_time);
  static bool is_backwards = false;  // which block comes last must not matter
  is_backwards = !is_backwards;
  Block own;
  own.fibers.resize(num_threads);
  own.warps.resize(num_threads / kWarp);
  own.shared.resize(shared_bytes + 128);
  own.shared_bytes = shared_bytes;
  own.lane_places.resize(num_threads * kLaneBytes);
  own.kernel = &kernel;
  for (Fiber& fiber : own.fibers) fiber.stack.reset(new unsigned char[kStackBytes]);  // not filled with zeros
  Block* const outer = block;
  block = &own;
  block_size = {num_threads, 1, 1};
  grid_size = {grid_x, grid_y, grid_z};
  try {
    const unsigned num_blocks = grid_x * grid_y * grid_z;
    for (unsigned turn = 0; turn < num_blocks; ++turn) {
      const unsigned number = is_backwards ? num_blocks - 1 - turn : turn;
      block_index = {number % grid_x, number / grid_x % grid_y, number / grid_x / grid_y};
      std::memset(own.shared.data(), kPoison, own.shared.size());
      std::memset(own.lane_places.data(), kPoison, own.lane_places.size());
      own.whole = {num_threads, 0, 0};
      for (Barrier& warp : own.warps) warp = {kWarp, 0, 0};
      for (unsigned thread = 0; thread < num_threads; ++thread) {
        Fiber& fiber = own.fibers[thread];
        fiber.index = {thread, 0, 0};
        fiber.has_started = fiber.has_ended = false;
        fiber.open_group.clear();
        fiber.groups.clear();
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = kStackBytes;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, run_fiber, 0);
      }
      run_threads(number % 2 == 1);
    }
  } catch (...) {
    block = outer;
    throw;
  }
  block = outer;
}

unsigned char* shared_memory() {
  const auto address = reinterpret_cast<uintptr_t>(block->shared.data());
  return reinterpret_cast<unsigned char*>((address + 127) / 128 * 128);
}

void wait_for_block() { wait_at(&block->whole); }

void wait_for_warp() { wait_at(&block->warps[thread_index.x / kWarp]); }

int own_lane() { return static_cast<int>(thread_index.x % kWarp); }

unsigned char* lane_place(int lane) {
  return &block->lane_places[(thread_index.x / kWarp * kWarp + static_cast<unsigned>(lane)) * kLaneBytes];
}

void begin_copy(void* target, const void* source, size_t num_bytes, bool is_valid) {
  if (reinterpret_cast<uintptr_t>(target) % num_bytes != 0 ||
      (is_valid && reinterpret_cast<uintptr_t>(source) % num_bytes != 0)) {
    throw std::runtime_error("an asynchronous copy must lie at multiples of its size");
  }
  const unsigned char* const first = shared_memory();
  const auto* const bytes = static_cast<unsigned char*>(target);
  if (bytes < first || bytes + num_bytes > first + block->shared_bytes) {
    throw std::runtime_error("an asynchronous copy ends outside of shared memory");
  }
  block->running->open_group.push_back({target, source, num_bytes, is_valid});
}

void commit_copies() {
  block->running->groups.push_back(std::move(block->running->open_group));
  block->running->open_group.clear();
}

void wait_for_copies(size_t num_pending_groups) {
  auto& groups = block->running->groups;
  while (groups.size() > num_pending_groups) {
    for (const Copy& copy : groups.front()) {
      if (copy.is_valid) {
        std::memcpy(copy.target, copy.source, copy.num_bytes);
      } else {
        std::memset(copy.target, 0, copy.num_bytes);
      }
    }
    groups.pop_front();
  }
}

}  // namespace specgrove::cuda::emulation
