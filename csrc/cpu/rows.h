// How ops that treat every row alone are shared out among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "thread_pool.h"

namespace specgrove {

constexpr int64_t kMinTaskElements = 1 << 14;  // below this a second thread costs more than it saves

// Calls row(i) for every row; row_elements is a row's work in elements read and written cheaply.
template <typename Row>
void for_rows(int64_t num_rows, int64_t row_elements, const Row& row) {
  const int64_t rows_per_task = std::max<int64_t>(1, kMinTaskElements / std::max<int64_t>(1, row_elements));
  const int64_t num_tasks = (num_rows + rows_per_task - 1) / rows_per_task;
  ThreadPool::instance().run(num_tasks, [&](int64_t task) {
    const int64_t end = std::min(num_rows, (task + 1) * rows_per_task);
    for (int64_t i = task * rows_per_task; i < end; ++i) row(i);
  });
}

}  // namespace specgrove
