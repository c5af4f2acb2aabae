// The threads of all kernels of this process. The calling thread takes part, so one thread means no hand-over at all.
//
// Tasks are handed out by a counter; which thread computes which output never changes a bit of it. Workers spin for some
// microseconds after a task, because a decoder step makes a hundred of them, and then sleep.
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

  ~ThreadPool();

 private:
  using Call = void (*)(const void*, int64_t);

  void run_erased(int64_t num_tasks, Call call, const void* context);
  void work(uint64_t seen_round);
  void take_tasks();
  void stop_workers();

  std::mutex run_mutex_;  // one run at a time; callers from other threads queue up
  std::mutex sleep_mutex_;
  std::condition_variable wake_up_;
  std::vector<std::thread> workers_;
  std::atomic<uint64_t> round_{0};
  std::atomic<int64_t> next_task_{0};
  std::atomic<int> num_busy_{0};
  std::atomic<bool> is_stopping_{false};
  int num_sleeping_ = 0;
  int64_t num_tasks_ = 0;
  Call call_ = nullptr;
  const void* context_ = nullptr;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace specgrove
