#include "thread_pool.h"

#include <chrono>
#include <utility>

namespace specgrove {
namespace {

constexpr auto kSpinTime = std::chrono::microseconds(50);
constexpr int kSpinsBeforeYield = 2000;
constexpr uint64_t kRun = uint64_t{1} << 32;

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
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
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
  if (workers_.empty() || num_tasks <= 1) {
    for (int64_t i = 0; i < num_tasks; ++i) call(context, i);
    return;
  }
  call_ = call;
  context_ = context;
  num_done_.store(0, std::memory_order_relaxed);
  tickets_.store((tickets_.load(std::memory_order_relaxed) / kRun + 1) * kRun + static_cast<uint64_t>(num_tasks));
  bool has_sleepers;
  {
    std::lock_guard<std::mutex> lock(sleep_mutex_);
    has_sleepers = num_sleeping_ > 0;
  }
  if (has_sleepers) wake_up_.notify_all();
  while (take_task()) {
  }
  for (int spins = 0; num_done_.load(std::memory_order_acquire) < num_tasks; ++spins) {
    if (spins < kSpinsBeforeYield) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
  if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
}

bool ThreadPool::take_task() {
  uint64_t tickets = tickets_.load(std::memory_order_acquire);
  do {
    if (num_left(tickets) == 0) return false;
  } while (!tickets_.compare_exchange_weak(tickets, tickets - 1, std::memory_order_acq_rel));
  try {
    call_(context_, num_left(tickets) - 1);
  } catch (...) {
    std::lock_guard<std::mutex> lock(failure_mutex_);
    failure_ = std::current_exception();
  }
  num_done_.fetch_add(1, std::memory_order_release);
  return true;
}

void ThreadPool::work() {
  while (!is_stopping_.load(std::memory_order_relaxed)) {
    auto spin_until = std::chrono::steady_clock::now() + kSpinTime;
    while (std::chrono::steady_clock::now() < spin_until) {
      if (take_task()) {
        while (take_task()) {
        }
        spin_until = std::chrono::steady_clock::now() + kSpinTime;
      }
      for (int i = 0; i < 16; ++i) relax();
    }
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    ++num_sleeping_;
    wake_up_.wait(lock, [&] { return is_stopping_.load() || num_left(tickets_.load()) > 0; });
    --num_sleeping_;
  }
}

}  // namespace specgrove
