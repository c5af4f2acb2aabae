// The threads of all kernels of this process. The calling thread takes part, so one thread means no hand-over at all.
//
// Tasks are handed out one by one; which thread computes which output never changes a bit of it. Workers spin for some
// microseconds after a task, because a decoder step makes hundreds of calls, and then sleep. A worker that the system
// does not let run takes no task, and is not waited for: on a busy machine the caller does the work itself.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace specgrove {

class ThreadPool {
 public:
  static ThreadPool& instance();

  void set_num_threads(int num_threads);
  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(i) for every i in [0, num_tasks), on all threads; returns when all are done. Throws what a task threw.
  template <typename Task>
  void run(int64_t num_tasks, const Task& task) {
    run_erased(num_tasks, [](const void* context, int64_t i) { (*static_cast<const Task*>(context))(i); }, &task);
  }

 private:
  using Call = void (*)(const void*, int64_t);

  void run_erased(int64_t num_tasks, Call call, const void* context);
  void work();
  bool take_task();
  void stop_workers();

  std::mutex run_mutex_;  // one run at a time; callers from other threads queue up
  std::mutex sleep_mutex_;
  std::condition_variable wake_up_;
  std::vector<std::thread> workers_;
  // Number of the run in the upper half, tasks not yet taken in the lower. Taking one is a compare-and-swap, after
  // which call_ and context_ can't change until the task is done.
  std::atomic<uint64_t> tickets_{0};
  std::atomic<int64_t> num_done_{0};
  std::atomic<bool> is_stopping_{false};
  int num_sleeping_ = 0;
  Call call_ = nullptr;
  const void* context_ = nullptr;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace specgrove
