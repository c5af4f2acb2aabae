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
constexpr size_t kStackShiftBytes = 17 * 64;
constexpr unsigned kWarp = 32;
constexpr size_t kGuardBytes = 128;      // behind a block's shared memory: who reads too far finds poison
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
  const Barrier* waits_at = nullptr;
  uint64_t generation = 0;  // of the barrier that it waits at
  bool has_started = false, has_ended = false;
  jmp_buf place{};
  ucontext_t start{};
  std::unique_ptr<unsigned char[]> stack;
  std::vector<Copy> copies;
  std::vector<size_t> group_ends;  // among the copies
  size_t num_landed = 0, num_landed_groups = 0;

  bool can_run() const { return !has_ended && (waits_at == nullptr || waits_at->generation != generation); }
};

struct Block {
  unsigned num_threads = 0;
  bool is_backwards = false;
  unsigned turn = 0;  // how many threads have had theirs in this round
  std::vector<Barrier> warps;
  Barrier whole;
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  bool is_poisoned = false;
  unsigned char* lane_places = nullptr;  // [warps][2][lanes][kLaneBytes]
  Fiber* running = nullptr;
  jmp_buf scheduler{};
  const std::function<void()>* kernel = nullptr;
  std::string failure;
};

Block* block = nullptr;

// They, their stacks and this memory serve all launches: where a thread ends, it begins anew with the next block.
std::deque<Fiber> fibers;
std::vector<unsigned char> shared_room, lane_room;

// At a multiple of 128 bytes.
unsigned char* room_in(std::vector<unsigned char>* room, size_t num_bytes) {
  if (room->size() < num_bytes + 128) room->resize(num_bytes + 128);
  return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(room->data()) + 127) / 128 * 128);
}

Fiber* next_in_round() {
  while (block->turn < block->num_threads) {
    const unsigned turn = block->turn++;
    Fiber& fiber = fibers[block->is_backwards ? block->num_threads - 1 - turn : turn];
    if (fiber.can_run()) return &fiber;
  }
  return nullptr;
}

// Only the first entry needs a system call.
void enter(Fiber* fiber) {
  block->running = fiber;
  thread_index = fiber->index;
  if (fiber->has_started) _longjmp(fiber->place, 1);
  fiber->has_started = true;
  setcontext(&fiber->start);
}

// Runs the next thread of the round, or run_threads at its end.
void yield() {
  if (_setjmp(block->running->place) != 0) return;
  Fiber* const next = block->failure.empty() ? next_in_round() : nullptr;
  if (next != nullptr) enter(next);
  _longjmp(block->scheduler, 1);
}

void run_fiber() {
  for (;;) {
    try {
      (*block->kernel)();
    } catch (const std::exception& error) {
      block->failure = error.what();
    }
    block->running->has_ended = true;
    yield();
  }
}

void wait_at(Barrier* barrier, void (*finish)(unsigned char*) = nullptr, unsigned char* places = nullptr) {
  if (++barrier->num_waiting == barrier->num_threads) {
    if (finish != nullptr) finish(places);
    barrier->num_waiting = 0;
    ++barrier->generation;
    return;
  }
  Fiber* const own = block->running;
  own->waits_at = barrier;
  own->generation = barrier->generation;
  yield();
  own->waits_at = nullptr;
}

void run_threads() {
  for (;;) {
    block->turn = 0;
    Fiber* const first = next_in_round();
    if (first == nullptr) break;
    if (_setjmp(block->scheduler) == 0) enter(first);
    if (!block->failure.empty()) throw std::runtime_error(block->failure);
  }
  for (unsigned thread = 0; thread < block->num_threads; ++thread) {
    if (!fibers[thread].has_ended) {
      throw std::runtime_error("a kernel's threads wait at a barrier that not all of them reach");
    }
  }
}

void prepare(Fiber* fiber, unsigned thread) {
  fiber->index = {thread, 0, 0};
  fiber->waits_at = nullptr;
  fiber->has_ended = false;
  fiber->copies.clear();
  fiber->group_ends.clear();
  fiber->num_landed = fiber->num_landed_groups = 0;
  if (fiber->has_started) return;
  if (fiber->stack == nullptr) fiber->stack.reset(new unsigned char[kStackBytes]);  // not filled with zeros
  getcontext(&fiber->start);
  fiber->start.uc_stack.ss_sp = fiber->stack.get();
  // Stacks that all began at the same place of a page would have the same few lines of the caches.
  fiber->start.uc_stack.ss_size = kStackBytes - thread * kStackShiftBytes % (kStackBytes / 4);
  fiber->start.uc_link = nullptr;
  makecontext(&fiber->start, run_fiber, 0);
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
  own.num_threads = num_threads;
  own.warps.resize(num_threads / kWarp);
  own.shared = room_in(&shared_room, shared_bytes + kGuardBytes);
  own.shared_bytes = shared_bytes;
  own.lane_places = room_in(&lane_room, 2 * num_threads * kLaneBytes);
  own.kernel = &kernel;
  if (fibers.size() < num_threads) fibers.resize(num_threads);
  block = &own;
  block_size = {num_threads, 1, 1};
  grid_size = {grid_x, grid_y, grid_z};
  try {
    const unsigned num_blocks = grid_x * grid_y * grid_z;
    for (unsigned turn = 0; turn < num_blocks; ++turn) {
      const unsigned number = is_backwards ? num_blocks - 1 - turn : turn;
      block_index = {number % grid_x, number / grid_x % grid_y, number / grid_x / grid_y};
      own.is_poisoned = false;
      own.whole = {num_threads, 0, 0};
      for (Barrier& warp : own.warps) warp = {kWarp, 0, 0};
      own.is_backwards = number % 2 == 1;
      for (unsigned thread = 0; thread < num_threads; ++thread) prepare(&fibers[thread], thread);
      run_threads();
    }
  } catch (...) {
    for (Fiber& fiber : fibers) fiber.has_started = false;  // some stand in the middle of the kernel
    block = nullptr;
    throw;
  }
  block = nullptr;
}

unsigned char* shared_memory() {
  if (!block->is_poisoned) std::memset(block->shared, kPoison, block->shared_bytes + kGuardBytes);
  block->is_poisoned = true;
  return block->shared;
}

void wait_for_block() { wait_at(&block->whole); }

void wait_for_warp() { wait_at(&block->warps[thread_index.x / kWarp]); }

void wait_for_warp(void (*finish)(unsigned char* places), unsigned char* places) {
  wait_at(&block->warps[thread_index.x / kWarp], finish, places);
}

unsigned char* lane_places() {
  const unsigned warp = thread_index.x / kWarp;
  return &block->lane_places[(2 * warp + block->warps[warp].generation % 2) * kWarp * kLaneBytes];
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
  block->running->copies.push_back({target, source, num_bytes, is_valid});
}

void commit_copies() { block->running->group_ends.push_back(block->running->copies.size()); }

void wait_for_copies(size_t num_pending_groups) {
  Fiber* const own = block->running;
  while (own->group_ends.size() - own->num_landed_groups > num_pending_groups) {
    const size_t end = own->group_ends[own->num_landed_groups++];
    for (; own->num_landed < end; ++own->num_landed) {
      const Copy& copy = own->copies[own->num_landed];
      if (copy.is_valid) {
        std::memcpy(copy.target, copy.source, copy.num_bytes);
      } else {
        std::memset(copy.target, 0, copy.num_bytes);
      }
    }
  }
}

}  // namespace specgrove::cuda::emulation
