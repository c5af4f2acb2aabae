// Ends a process when nothing calls beat() for too long, whatever keeps it from that: a native call that hangs with
// Python's interpreter stops all of its threads, but not this one.
//
// Time is counted in ticks of the watching thread. A process that was stopped (SIGSTOP, a paused container) has no
// ticks meanwhile: so the time for which it was is nobody's fault.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace specgrove {

class TurnWatch {
 public:
  // Begins to watch. A process that gives no sign for timeout_s gets `signal`, in the watching thread, and ends with
  // code 1 when that has been handled. Throws std::invalid_argument unless 0 < timeout_s <= 1e9.
  TurnWatch(double timeout_s, int signal);
  ~TurnWatch() { stop(); }

  void beat() { num_beats_.fetch_add(1, std::memory_order_relaxed); }
  void stop();

 private:
  void run();

  const double tick_s_;
  const int signal_;
  std::atomic<uint64_t> num_beats_{0};
  bool is_over_ = false;
  std::mutex mutex_;
  std::condition_variable wake_up_;
  std::thread thread_;
};

}  // namespace specgrove
