#include "turn_watch.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>

namespace specgrove {
namespace {

constexpr int kNumTicks = 20;  // of a timeout
constexpr double kMaxTimeoutS = 1e9;

}  // namespace

TurnWatch::TurnWatch(double timeout_s, int signal) : tick_s_(timeout_s / kNumTicks), signal_(signal) {
  if (!(timeout_s > 0 && timeout_s <= kMaxTimeoutS))
    throw std::invalid_argument("timeout_s must be above 0, and 1e9 at most");
  thread_ = std::thread([this] { run(); });
}

void TurnWatch::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_over_ = true;
  }
  wake_up_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void TurnWatch::run() {
  uint64_t num_seen = 0;
  int num_ticks = 0;  // since the last beat that was seen
  std::unique_lock<std::mutex> lock(mutex_);
  while (!wake_up_.wait_for(lock, std::chrono::duration<double>(tick_s_), [this] { return is_over_; })) {
    const uint64_t num_beats = num_beats_.load(std::memory_order_relaxed);
    num_ticks = num_beats == num_seen ? num_ticks + 1 : 0;
    num_seen = num_beats;
    if (num_ticks <= kNumTicks) continue;
    pthread_kill(pthread_self(), signal_);
    _exit(1);
  }
}

}  // namespace specgrove
