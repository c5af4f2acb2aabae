// A block takes one row, each thread logits kThreads apart, of which it finds the largest and the sum of exponentials.
// Then one warp takes the largest of all k times, and each time only looks again through the logits of the thread whose
// it was.
#include <cmath>

#include "../cpu/choice_key.h"
#include "device.cuh"
#include "top_k.h"

namespace specgrove::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / kWarpSize, kBatch = 8;
constexpr float kLog2E = 1.44269504f;
static_assert(kWarps == kWarpSize, "the last warp has a lane for each");

struct Shared {
  uint64_t thread_keys[kThreads];  // of the threads' largest logits that were not taken yet; 0: none
  uint64_t warp_keys[kWarps];
  float warp_sums[kWarps];
};

// A sum of exponentials of distances to one logit, for distances to another.
__device__ inline float moved(float sum, float from, float to) {
  return from == to ? sum : sum * fast_exp2((from - to) * kLog2E);
}

// This thread's best key, and its sum of exponentials of distances to that logit.
__device__ inline uint64_t scan(const float* logits, int64_t vocab_size, float* sum) {
  const int64_t thread = threadIdx.x;
  if (thread >= vocab_size) return 0;
  float largest = -HUGE_VALF;
  int64_t largest_id = thread;
  for (int64_t start = thread; start < vocab_size; start += kBatch * kThreads) {
    float values[kBatch];  // loaded together: one load after the other would take as many times as long
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t token_id = start + i * kThreads;
      values[i] = token_id < vocab_size ? logits[token_id] : -HUGE_VALF;
    }
    const float before = largest;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (values[i] > largest) {
        largest = values[i];
        largest_id = start + i * kThreads;
      }
    }
    *sum = moved(*sum, before, largest);
    const float center = largest == -HUGE_VALF ? 0.0f : largest;  // two infinities have no distance
#pragma unroll
    for (int i = 0; i < kBatch; ++i) *sum += fast_exp2((values[i] - center) * kLog2E);
  }
  return choice_key(largest, largest_id);
}

// The best key below last among the logits of one thread: all lanes get it.
__device__ inline uint64_t best_below(uint64_t last, int64_t thread, const float* logits, int64_t vocab_size) {
  uint64_t best = 0;
#pragma unroll 4
  for (int64_t i = thread + threadIdx.x * kThreads; i < vocab_size; i += kWarpSize * kThreads) {
    const uint64_t key = choice_key(logits[i], i);
    if (key < last && best < key) best = key;
  }
  return warp_max(best);
}

__global__ void __launch_bounds__(kThreads) top_k_kernel(TopK top) {
  auto* const shared = reinterpret_cast<Shared*>(dynamic_shared());
  const int64_t row = blockIdx.x;
  const float* const logits = top.logits + row * top.vocab_size;
  const unsigned lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  float sum = 0.0f;
  const uint64_t own_key = scan(logits, top.vocab_size, &sum), warp_key = warp_max(own_key);
  sum = own_key == 0 ? 0.0f : moved(sum, value_of_key(own_key), value_of_key(warp_key));
  sum = warp_sum(sum);
  shared->thread_keys[threadIdx.x] = own_key;
  if (lane == 0) {
    shared->warp_keys[warp] = warp_key;
    shared->warp_sums[warp] = sum;
  }
  __syncthreads();
  if (warp != 0) return;

  uint64_t key = shared->warp_keys[lane], best = warp_max(key);  // of the warp with this lane's number, and of all
  const float largest = value_of_key(best);
  const float total = warp_sum(key == 0 ? 0.0f : moved(shared->warp_sums[lane], value_of_key(key), largest));
  const bool is_distribution = total > 0.0f;  // false for a NaN
  float* const log_probs = top.log_probs + row * top.k;
  int32_t* const token_ids = top.token_ids + row * top.k;
  for (int64_t rank = 0;; ++rank) {
    if (lane == 0) {
      log_probs[rank] = is_distribution ? value_of_key(best) - largest - logf(total) : NAN;
      token_ids[rank] = is_distribution ? static_cast<int32_t>(token_of_key(best)) : -1;
    }
    if (rank + 1 == top.k) return;
    const auto owner = static_cast<unsigned>(token_of_key(best)) % kThreads;
    const uint64_t next = best_below(best, owner, logits, top.vocab_size);
    if (lane == 0) shared->thread_keys[owner] = next;
    __syncwarp();
    const unsigned owners_warp = owner / kWarpSize;
    const uint64_t owners_best = warp_max(shared->thread_keys[owners_warp * kWarpSize + lane]);
    if (lane == owners_warp) key = owners_best;
    best = warp_max(key);
  }
}

}  // namespace

void top_k_log_probs(const TopK& top, Stream stream) {
  LaunchShape shape;
  shape.grid_x = static_cast<unsigned>(top.num_rows);
  shape.num_threads = kThreads;
  shape.shared_bytes = sizeof(Shared);
  launch(top_k_kernel, shape, stream, top);
}

}  // namespace specgrove::cuda
