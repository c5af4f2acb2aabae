#include "linear.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <type_traits>

#include "isa.h"
#include "thread_pool.h"

namespace specgrove {
namespace {

constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kTaskBytes = 128 << 10;  // the most weights that one task reads
constexpr int64_t kTasksPerThread = 4;     // at least, so that threads end together

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// A group holds, input by input, its outputs; bfloat16 two inputs by two, an output's pair side by side.
template <typename T>
void pack(const T* weight, int64_t out_features, int64_t in_features, int64_t padded_in, T* packed) {
  constexpr int64_t kInputs = std::is_same_v<T, BFloat16> ? 2 : 1;
  const int64_t num_groups = round_up(out_features, kGroup) / kGroup;
  ThreadPool::instance().run(num_groups, [=](int64_t group) {
    T* target = packed + group * padded_in * kGroup;
    for (int64_t lane = 0; lane < kGroup; ++lane) {
      const int64_t output = group * kGroup + lane;
      for (int64_t input = 0; input < padded_in; ++input) {
        const bool exists = output < out_features && input < in_features;
        const int64_t place = (input / kInputs * kGroup + lane) * kInputs + input % kInputs;
        target[place] = exists ? weight[output * in_features + input] : T{};
      }
    }
  });
}

}  // namespace

PackedLinear::PackedLinear(const void* weight, DType dtype, const float* bias, int64_t out_features,
                           int64_t in_features)
    : dtype_(dtype),
      out_features_(out_features),
      in_features_(in_features),
      padded_in_(dtype == DType::kBFloat16 ? round_up(in_features, 2) : in_features),
      num_groups_(round_up(out_features, kGroup) / kGroup),
      num_bytes_(num_groups_ * kGroup * padded_in_ * size_of(dtype)),
      bias_(num_groups_ * kGroup, 0.0f) {
  packed_ = std::aligned_alloc(kHugePage, round_up(num_bytes_, kHugePage));
  if (packed_ == nullptr) throw std::bad_alloc();
  madvise(packed_, round_up(num_bytes_, kHugePage), MADV_HUGEPAGE);
  if (bias != nullptr) std::copy(bias, bias + out_features, bias_.begin());
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    pack(static_cast<const T*>(weight), out_features, in_features, padded_in_, static_cast<T*>(packed_));
  });
}

PackedLinear::~PackedLinear() { std::free(packed_); }

void PackedLinear::forward(const float* x, int64_t num_rows, float* out) const {
  const Isa isa = current_isa();
  const auto run_tile = isa == Isa::kAvx512 ? linear_tile_avx512
                        : isa == Isa::kAvx2 ? linear_tile_avx2
                                            : linear_tile_plain;
  const void* inputs = x;
  int64_t x_stride = in_features_;
  thread_local std::vector<uint16_t> rounded;
  if (dtype_ == DType::kBFloat16) {
    x_stride = padded_in_;
    rounded.assign(num_rows * padded_in_, 0);
    uint16_t* target = rounded.data();
    const auto convert = isa == Isa::kAvx512 ? to_bfloat16_avx512 : to_bfloat16_plain;
    for (int64_t row = 0; row < num_rows; ++row) {
      convert(x + row * in_features_, in_features_, target + row * padded_in_);
    }
    inputs = target;
  }
  const int64_t group_bytes = kGroup * padded_in_ * size_of(dtype_);
  const int64_t num_wanted = kTasksPerThread * ThreadPool::instance().num_threads();
  const int64_t groups_per_task =
      std::max<int64_t>(1, std::min(kTaskBytes / std::max<int64_t>(1, group_bytes), num_groups_ / num_wanted));
  const int64_t num_tasks = round_up(num_groups_, groups_per_task) / groups_per_task;
  ThreadPool::instance().run(num_tasks, [&](int64_t task) {
    const int64_t first = task * groups_per_task;
    const int64_t count = std::min(groups_per_task, num_groups_ - first);
    LinearTile tile{static_cast<const char*>(packed_) + first * group_bytes,
                    group_bytes,
                    inputs,
                    x_stride,
                    bias_.data() + first * kGroup,
                    padded_in_,
                    num_rows,
                    count,
                    out + first * kGroup,
                    out_features_,
                    std::min(count * kGroup, out_features_ - first * kGroup)};
    run_tile(dtype_, tile);
  });
}

}  // namespace specgrove
