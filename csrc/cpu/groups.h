// How groups of a linear's outputs are shared out among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "thread_pool.h"

namespace specgrove {

constexpr int64_t kTaskBytes = 128 << 10;  // of weights that one task reads, about the most
constexpr int64_t kTasksPerThread = 4;     // at least: what a thread that is held up leaves, others take

// Calls multiply(first, count) for all groups. Every thread has the same number of tasks, and of groups but for one:
// with tasks of a fixed size and few groups, one thread would have a tenth more to do than another.
template <typename Multiply>
void for_groups(int64_t num_groups, int64_t group_bytes, const Multiply& multiply) {
  const int64_t num_threads = ThreadPool::instance().num_threads();
  const int64_t per_thread = std::max(kTasksPerThread, num_groups * group_bytes / (kTaskBytes * num_threads));
  const int64_t num_tasks = std::min(num_groups, per_thread * num_threads);
  ThreadPool::instance().run(num_tasks, [&](int64_t task) {
    const int64_t first = num_groups * task / num_tasks, end = num_groups * (task + 1) / num_tasks;
    multiply(first, end - first);
  });
}

}  // namespace specgrove
