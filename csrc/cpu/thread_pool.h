// The threads of all kernels of this process. The calling thread takes part, so one thread means no hand-over at all.
//
// Each thread has a share of the tasks, one after another, so that it reads memory from front to back; when it is done
// it takes from the others' shares. Which thread computes which output never changes a bit of it. Workers spin for some
// microseconds after a task, because a pass makes hundreds of calls, and then sleep. A worker that the system
// does not let run takes no task, and is not waited for: on a busy machine the caller does the work itself. Only for
// one that lost its processor within a task the caller has to wait, and then it sleeps too.
//
// Workers are never woken up on the caller's processor. Where processors are few and busy, Linux often does not look
// for an idle one: it would put a worker where it ran last, there it would interrupt the caller, and spin, run after
// run.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
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

  // What a run that comes soon reads, front to back and in equal shares: a thread that has nothing to do fetches
  // the beginning of its share into its cache.
  void read_ahead(const void* bytes, int64_t num_bytes) {
    ahead_bytes_.store(static_cast<const char*>(bytes), std::memory_order_relaxed);
    num_ahead_bytes_.store(num_bytes, std::memory_order_relaxed);
    ahead_number_.fetch_add(1, std::memory_order_release);
  }

 private:
  // How far a thread has come with what is to be read ahead.
  struct ReadAhead {
    uint64_t number = 0;
    const char *next = nullptr, *end = nullptr;
  };
  using Call = void (*)(const void*, int64_t);

  // Number of the run in the upper half, tasks of the share not yet taken in the lower. Taking one is a
  // compare-and-swap, after which call_, context_ and num_tasks_ can't change until the task is done.
  struct alignas(64) Share {
    std::atomic<uint64_t> tickets{0};
  };

  void run_erased(int64_t num_tasks, Call call, const void* context);
  void work(int thread);
  void take_tasks(int thread);
  int64_t take_share(int share);
  void wait_for_others();
  void stop_workers();
  void keep_workers_apart();
  void idle(int thread, ReadAhead& ahead) const;

  std::mutex run_mutex_;  // one run at a time; callers from other threads queue up
  std::mutex sleep_mutex_;
  std::condition_variable wake_up_, all_done_;
  std::vector<std::thread> workers_;
  std::unique_ptr<Share[]> shares_;  // of the caller, then of each worker
  Call call_ = nullptr;
  const void* context_ = nullptr;
  int64_t num_tasks_ = 0;
  int num_shares_ = 1;
  int caller_cpu_ = -1;                              // on which workers may not run; -1: not looked at
  alignas(64) std::atomic<uint64_t> run_number_{0};  // workers watch it; it is set when all else is in place
  alignas(64) std::atomic<int64_t> num_done_{0};
  alignas(64) std::atomic<uint64_t> ahead_number_{0};
  std::atomic<const char*> ahead_bytes_{nullptr};
  std::atomic<int64_t> num_ahead_bytes_{0};
  ReadAhead caller_ahead_;
  std::atomic<bool> is_stopping_{false};
  std::atomic<int> num_sleeping_{0};
  std::atomic<bool> is_caller_asleep_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace specgrove
