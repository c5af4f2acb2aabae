// Runs a kernel's blocks one after the other, each block's threads as fibers that yield where threads wait for each
// other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace specgrove::cuda::emulation {

struct Index {
  unsigned x, y, z;
};

// Of the thread that runs now.
extern Index thread_index, block_index, block_size, grid_size;

// Calls kernel as every thread of every block. Shared memory is poisoned in each block, and the order in which
// threads run changes from block to block, that of blocks from launch to launch. Throws std::runtime_error when threads
// wait at a barrier that not all of them reach; which barrier of the source it is, it does not tell apart. One call
// runs at a time.
void run_grid(unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned num_threads, size_t shared_bytes,
              const std::function<void()>& kernel);

unsigned char* shared_memory();
void wait_for_block();
void wait_for_warp();
// The last lane to come calls finish(places) before any of them goes on. It must not wait, nor throw.
void wait_for_warp(void (*finish)(unsigned char* places), unsigned char* places);

// What each lane of the warp publishes for the others: 32 places of 64 bytes, others after each wait for the warp.
constexpr size_t kLaneBytes = 64;
unsigned char* lane_places();
inline int own_lane() { return static_cast<int>(thread_index.x % 32); }

// Copies that land when they are waited for, and no sooner.
void begin_copy(void* target, const void* source, size_t num_bytes, bool is_valid);
void commit_copies();
void wait_for_copies(size_t num_pending_groups);

}  // namespace specgrove::cuda::emulation
