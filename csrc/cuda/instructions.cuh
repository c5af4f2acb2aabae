// The instructions behind device.cuh, for nvcc (compute capability 8.0 and above).
#pragma once

#include <cstdint>

namespace specgrove::cuda {

// The block's dynamic shared memory, at a multiple of 128 bytes.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char shared[];
  return shared;
}

__device__ inline float shuffle_xor(float value, int mask) { return __shfl_xor_sync(kAllLanes, value, mask); }
__device__ inline uint32_t shuffle_xor(uint32_t value, int mask) { return __shfl_xor_sync(kAllLanes, value, mask); }
__device__ inline uint64_t shuffle_xor(uint64_t value, int mask) {
  return __shfl_xor_sync(kAllLanes, static_cast<unsigned long long>(value), mask);
}
__device__ inline float shuffle(float value, int lane) { return __shfl_sync(kAllLanes, value, lane); }
__device__ inline uint32_t shuffle(uint32_t value, int lane) { return __shfl_sync(kAllLanes, value, lane); }
__device__ inline bool any_lane(bool value) { return __any_sync(kAllLanes, value); }

// 16 bytes from global to shared memory beside the computation; zeros where is_valid is false (source is then not
// read).
__device__ inline void copy_async_16(void* shared, const void* source, bool is_valid = true) {
  const auto target = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(source), "r"(is_valid ? 16 : 0)
               : "memory");
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits for this thread's copies but those of the last kPending groups; others' are there after __syncthreads().
template <int kPending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Four matrices of 8 x 8 16-bit numbers from shared memory: lanes 8 i to 8 i + 7 give the addresses of the rows of
// matrix i, and out[i] is that lane's two numbers of it: row lane / 4, columns 2 (lane % 4) and the next.
__device__ inline void load_matrices(uint32_t (&out)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}
// The same, each matrix transposed: out[i] is column lane / 4, rows 2 (lane % 4) and the next.
__device__ inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// d += a b for a 16 x 16 and b 16 x 8, in the layout of mma.m16n8k16: with group = lane / 4 and pair = 2 (lane % 4)
//   a[0] row group, columns pair and next; a[1] row group + 8; a[2] row group, columns + 8; a[3] row group + 8, columns
//   + 8 b[0] rows pair and next, column group; b[1] rows + 8 d[0], d[1] row group, columns pair and next; d[2], d[3]
//   row group + 8
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Float16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], BFloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// a + b for pairs of 16-bit numbers. For bfloat16 as a times one plus b, which compute capability 8.0 has.
__device__ inline uint32_t add_pairs(uint32_t a, uint32_t b, Float16) {
  uint32_t sum;
  asm("add.rn.f16x2 %0, %1, %2;\n" : "=r"(sum) : "r"(a), "r"(b));
  return sum;
}
__device__ inline uint32_t add_pairs(uint32_t a, uint32_t b, BFloat16) {
  uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(sum) : "r"(a), "r"(0x3f803f80u), "r"(b));
  return sum;
}

// Two numbers as one register of 16-bit numbers, rounded to nearest; the first in the lower half, as mma takes them.
template <typename T>
__device__ inline uint32_t pack(float low, float high);
template <>
__device__ inline uint32_t pack<Float16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
template <>
__device__ inline uint32_t pack<BFloat16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// 2^x, to about two units in the last place.
__device__ inline float fast_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
}

struct alignas(16) Vector16 {
  uint32_t words[4];
};

// 16 bytes that are read once: they take no place in the first cache.
__device__ inline Vector16 load_once(const void* source) {
  Vector16 loaded;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(loaded.words[0]), "=r"(loaded.words[1]), "=r"(loaded.words[2]), "=r"(loaded.words[3])
               : "l"(source));
  return loaded;
}

__device__ inline void atomic_max(uint64_t* target, uint64_t value) {
  atomicMax(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value));
}
__device__ inline uint32_t atomic_add(uint32_t* target, uint32_t value) { return atomicAdd(target, value); }
// All writes of this thread before it are seen by other blocks before those after it.
__device__ inline void fence() { __threadfence(); }

}  // namespace specgrove::cuda
