#include "thread_pool.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#include <algorithm>
#include <chrono>
#include <utility>

#include "prefetch.h"
#include "tile_state.h"

namespace specgrove {
namespace {

constexpr auto kSpinTime = std::chrono::microseconds(50);
constexpr int kPollsPerClock = 16;
constexpr auto kCallerSpinTime = std::chrono::microseconds(200);  // to be woken up takes up to half of it
constexpr int64_t kMaxReadAhead = 512 << 10;                      // bytes of a thread: half of a second-level cache
constexpr int kLinesPerPoll = 4;
constexpr int kMaxOtherCpus = 16;  // where there are more, Linux finds an idle one
constexpr uint64_t kRun = uint64_t{1} << 32;

// Where a share ends, in tasks; share -1 ends where the first begins.
int64_t share_end(int64_t num_tasks, int share, int num_shares) { return num_tasks * (share + 1) / num_shares; }

uint32_t num_left(uint64_t tickets) { return static_cast<uint32_t>(tickets); }

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool& ThreadPool::instance() {
  // Never destroyed: at exit, workers may still sleep in it.
  static ThreadPool* pool = new ThreadPool;
  return *pool;
}

void ThreadPool::set_num_threads(int num_threads) {
  std::lock_guard<std::mutex> running(run_mutex_);
  stop_workers();
  num_shares_ = num_threads;
  caller_cpu_ = -1;
  shares_ = std::make_unique<Share[]>(num_threads);
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

void ThreadPool::stop_workers() {
  {
    std::lock_guard<std::mutex> lock(sleep_mutex_);
    is_stopping_ = true;
  }
  wake_up_.notify_all();
  for (auto& worker : workers_) worker.join();
  workers_.clear();
  is_stopping_ = false;
}

void ThreadPool::run_erased(int64_t num_tasks, Call call, const void* context) {
  std::lock_guard<std::mutex> running(run_mutex_);
  const TilesInUse in_use;
  if (workers_.empty() || num_tasks <= 1) {
    for (int64_t i = 0; i < num_tasks; ++i) call(context, i);
    return;
  }
  call_ = call;
  context_ = context;
  num_tasks_ = num_tasks;
  num_done_.store(0, std::memory_order_relaxed);
  const uint64_t run_number = run_number_.load(std::memory_order_relaxed) + 1;
  for (int share = 0; share < num_shares_; ++share) {
    const int64_t count = share_end(num_tasks, share, num_shares_) - share_end(num_tasks, share - 1, num_shares_);
    shares_[share].tickets.store(run_number * kRun + static_cast<uint64_t>(count), std::memory_order_release);
  }
  run_number_.store(run_number);
  // A worker counts itself as asleep before it looks a last time: either it sees the run, or it is seen here.
  if (num_sleeping_.load() > 0) {
    keep_workers_apart();
    {
      std::lock_guard<std::mutex> lock(sleep_mutex_);
    }
    wake_up_.notify_all();
  }
  take_tasks(0);
  wait_for_others();
  if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
}

// A few system calls, one for each worker, where the caller runs on another processor than before. Where threads are
// more than processors, or the system refuses, workers stay where they may run.
void ThreadPool::keep_workers_apart() {
#if defined(__linux__)
  const int cpu = sched_getcpu();
  if (cpu < 0 || cpu == caller_cpu_) return;
  caller_cpu_ = cpu;
  cpu_set_t others;
  if (sched_getaffinity(0, sizeof others, &others) != 0) return;
  CPU_CLR(cpu, &others);
  const int count = CPU_COUNT(&others);
  if (count < num_shares_ - 1 || count > kMaxOtherCpus) return;
  for (auto& worker : workers_) pthread_setaffinity_np(worker.native_handle(), sizeof others, &others);
#endif
}

// The thread's own share, then what is left of the others.
void ThreadPool::take_tasks(int thread) {
  int64_t num_taken = 0;
  for (int i = 0; i < num_shares_; ++i) num_taken += take_share((thread + i) % num_shares_);
  if (num_taken == 0) return;
  // As with sleeping workers: either the caller sees this count before it sleeps, or it is seen to sleep.
  const int64_t num_tasks = num_tasks_;  // of the next run after the count
  if (num_done_.fetch_add(num_taken) + num_taken == num_tasks && is_caller_asleep_.load()) {
    {
      std::lock_guard<std::mutex> lock(sleep_mutex_);
    }
    all_done_.notify_one();
  }
}

// Till the tasks that others took are done. Where that takes long, a task is a long one, or the system does not let its
// thread run. Then the caller sleeps: were it to yield again and again, Linux would take more of its time for every
// call, for tens of milliseconds, and give it to other programs.
void ThreadPool::wait_for_others() {
  const auto spin_until = std::chrono::steady_clock::now() + kCallerSpinTime;
  do {
    for (int polls = 0; polls < kPollsPerClock; ++polls) {
      if (num_done_.load(std::memory_order_acquire) == num_tasks_) return;
      idle(0, caller_ahead_);
    }
  } while (std::chrono::steady_clock::now() < spin_until);
  std::unique_lock<std::mutex> lock(sleep_mutex_);
  is_caller_asleep_.store(true);
  all_done_.wait(lock, [&] { return num_done_.load() == num_tasks_; });
  is_caller_asleep_.store(false);
}

int64_t ThreadPool::take_share(int share) {
  std::atomic<uint64_t>& own = shares_[share].tickets;
  int64_t num_taken = 0;
  uint64_t tickets = own.load(std::memory_order_acquire);
  while (num_left(tickets) > 0) {
    if (!own.compare_exchange_weak(tickets, tickets - 1, std::memory_order_acq_rel)) continue;
    try {
      call_(context_, share_end(num_tasks_, share, num_shares_) - num_left(tickets));
    } catch (...) {
      std::lock_guard<std::mutex> lock(failure_mutex_);
      failure_ = std::current_exception();
    }
    ++num_taken;
    tickets = own.load(std::memory_order_acquire);
  }
  return num_taken;
}

void ThreadPool::idle(int thread, ReadAhead& ahead) const {
  const uint64_t number = ahead_number_.load(std::memory_order_acquire);
  if (number != ahead.number) {
    // Where another call comes between these loads, something else is fetched: nothing depends on it.
    const char* const bytes = ahead_bytes_.load(std::memory_order_relaxed);
    const int64_t num_bytes = num_ahead_bytes_.load(std::memory_order_relaxed);
    const int64_t begin = share_end(num_bytes, thread - 1, num_shares_),
                  end = share_end(num_bytes, thread, num_shares_);
    ahead = {number, bytes + begin, bytes + std::min(end, begin + kMaxReadAhead)};
  }
  if (ahead.next >= ahead.end) return relax();
  for (int line = 0; line < kLinesPerPoll; ++line, ahead.next += kCacheLine) prefetch(ahead.next);
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0;
  ReadAhead ahead;
  while (!is_stopping_.load(std::memory_order_relaxed)) {
    auto spin_until = std::chrono::steady_clock::now() + kSpinTime;
    while (std::chrono::steady_clock::now() < spin_until) {
      for (int polls = 0; polls < kPollsPerClock; ++polls) {
        const uint64_t run_number = run_number_.load(std::memory_order_acquire);
        if (run_number != seen) {
          seen = run_number;
          take_tasks(thread);
          spin_until = std::chrono::steady_clock::now() + kSpinTime;
        }
        idle(thread, ahead);
      }
    }
    release_tiles();
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    ++num_sleeping_;
    wake_up_.wait(lock, [&] { return is_stopping_.load() || run_number_.load() != seen; });
    --num_sleeping_;
  }
}

}  // namespace specgrove
