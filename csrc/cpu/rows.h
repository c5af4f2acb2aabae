// How ops that treat every row alone are shared out among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "thread_pool.h"

namespace specgrove {

constexpr int64_t kMinTaskElements = 1 << 14;  // below this a second thread costs more than it saves
constexpr int64_t kMaxTasksPerThread = 4;      // what a thread that is held up leaves, others take

// Calls range(first, end) for ranges that make up all rows; row_elements is a row's work in elements read and written
// cheaply. Every thread has the same number of ranges, and of rows but for one.
template <typename Range>
void for_ranges(int64_t num_rows, int64_t row_elements, const Range& range) {
  const int64_t num_threads = ThreadPool::instance().num_threads();
  const int64_t worth_it = num_rows * row_elements / (kMinTaskElements * num_threads);
  const int64_t per_thread = std::min(kMaxTasksPerThread, worth_it);
  const int64_t num_tasks = std::min(num_rows, std::max<int64_t>(1, per_thread * num_threads));
  ThreadPool::instance().run(
      num_tasks, [&](int64_t task) { range(num_rows * task / num_tasks, num_rows * (task + 1) / num_tasks); });
}

// Calls row(i) for every row.
template <typename Row>
void for_rows(int64_t num_rows, int64_t row_elements, const Row& row) {
  for_ranges(num_rows, row_elements, [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) row(i);
  });
}

}  // namespace specgrove
