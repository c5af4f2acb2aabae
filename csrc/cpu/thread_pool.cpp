#include "thread_pool.h"

#include <chrono>
#include <utility>

namespace specgrove {
namespace {

constexpr auto kSpinTime = std::chrono::microseconds(50);

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

ThreadPool::~ThreadPool() { stop_workers(); }

void ThreadPool::set_num_threads(int num_threads) {
  std::lock_guard<std::mutex> running(run_mutex_);
  stop_workers();
  for (int i = 1; i < num_threads; ++i) {
    workers_.emplace_back([this, round = round_.load()] { work(round); });
  }
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
  num_tasks_ = num_tasks;
  call_ = call;
  context_ = context;
  next_task_.store(0, std::memory_order_relaxed);
  num_busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1);
  bool has_sleepers;
  {
    std::lock_guard<std::mutex> lock(sleep_mutex_);
    has_sleepers = num_sleeping_ > 0;
  }
  if (has_sleepers) wake_up_.notify_all();
  take_tasks();
  while (num_busy_.load(std::memory_order_acquire) > 0) relax();
  if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::take_tasks() {
  try {
    for (int64_t i; (i = next_task_.fetch_add(1, std::memory_order_relaxed)) < num_tasks_;) call_(context_, i);
  } catch (...) {
    std::lock_guard<std::mutex> lock(failure_mutex_);
    failure_ = std::current_exception();
  }
}

void ThreadPool::work(uint64_t seen_round) {
  for (;;) {
    const auto spin_until = std::chrono::steady_clock::now() + kSpinTime;
    while (round_.load(std::memory_order_acquire) == seen_round && !is_stopping_.load(std::memory_order_relaxed) &&
           std::chrono::steady_clock::now() < spin_until) {
      for (int i = 0; i < 16; ++i) relax();
    }
    if (round_.load(std::memory_order_acquire) == seen_round) {
      std::unique_lock<std::mutex> lock(sleep_mutex_);
      ++num_sleeping_;
      wake_up_.wait(lock, [&] { return is_stopping_.load() || round_.load() != seen_round; });
      --num_sleeping_;
    }
    if (round_.load(std::memory_order_acquire) == seen_round) return;  // stopping
    seen_round = round_.load(std::memory_order_acquire);
    take_tasks();
    num_busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace specgrove
