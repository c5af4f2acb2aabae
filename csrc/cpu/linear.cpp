#include "linear.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "clones.h"
#include "groups.h"
#include "isa.h"
#include "linear_tiles.h"
#include "rows.h"
#include "scratch.h"
#include "thread_pool.h"

namespace specgrove {
namespace {

int64_t padded_inputs(DType dtype, int64_t in_features) {
  return dtype == DType::kBFloat16 ? round_up(in_features, kInputStep) : in_features;
}

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

// To the nearest number of bfloat16, as from_float() of number_types.h.
SPECGROVE_CLONES void round_floats(const float* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = float_to_bits(x[i]), magnitude = bits & 0x7fffffffu;
    const uint32_t rounded = magnitude > 0x7f800000u ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u);
    out[i] = bits_to_float(rounded & 0xffff0000u);
  }
}

// x rounded to bfloat16 as AVX-512 takes it, or as the same numbers in float32; each row padded with zeros to
// padded_in. Valid until the next call in the same thread.
const void* rounded_rows(Isa isa, const float* x, int64_t num_rows, int64_t in_features, int64_t padded_in) {
  if (isa == Isa::kAvx512) {
    thread_local Scratch<uint16_t> rounded;
    uint16_t* const first = rounded.room(num_rows * padded_in);
    for_rows(num_rows, in_features, [=](int64_t row) {
      round_row_avx512(x + row * in_features, in_features, first + row * padded_in, kInputStep);
    });
    return first;
  }
  thread_local Scratch<float> rounded;
  float* const first = rounded.room(num_rows * padded_in);
  for_rows(num_rows, in_features, [=](int64_t row) {
    float* const to = first + row * padded_in;
    round_floats(x + row * in_features, in_features, to);
    std::fill(to + in_features, to + padded_in, 0.0f);
  });
  return first;
}

}  // namespace

float* tile_buffer(int64_t num_floats) {
  thread_local Scratch<float> buffer;
  return buffer.room(num_floats);
}

RoundRow bfloat16_rounding() { return vector_isa() == Isa::kAvx512 ? round_row_avx512 : round_row_plain; }

PackedLinear::PackedLinear(const void* weight, DType dtype, const float* bias, int64_t out_features,
                           int64_t in_features)
    : PackedLinear(PackedBytes(packed_nbytes(dtype, out_features, in_features)), dtype, bias, out_features,
                   in_features) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    pack(static_cast<const T*>(weight), out_features, in_features, padded_in_, static_cast<T*>(packed_.owned()));
  });
}

PackedLinear::PackedLinear(PackedBytes packed, DType dtype, const float* bias, int64_t out_features,
                           int64_t in_features)
    : dtype_(dtype),
      out_features_(out_features),
      in_features_(in_features),
      padded_in_(padded_inputs(dtype, in_features)),
      num_groups_(round_up(out_features, kGroup) / kGroup),
      packed_(std::move(packed)),
      bias_(num_groups_ * kGroup, 0.0f) {
  if (bias != nullptr) std::copy(bias, bias + out_features, bias_.begin());
}

int64_t PackedLinear::packed_nbytes(DType dtype, int64_t out_features, int64_t in_features) {
  return round_up(out_features, kGroup) * padded_inputs(dtype, in_features) * size_of(dtype);
}

void PackedLinear::multiply(const float* x, int64_t num_rows, float* out, TileSink* sink) const {
  if (dtype_ == DType::kBFloat16 && current_isa() >= Isa::kAmx) {
    const int64_t group_bytes = kGroup * padded_in_ * size_of(dtype_);
    return multiply_on_tiles({packed_.data(), num_groups_, group_bytes, out_features_, in_features_, bias_.data()}, x,
                             num_rows, out, sink);
  }
  const Isa isa = vector_isa();
  const auto run_tile = isa == Isa::kAvx512 ? linear_tile_avx512
                        : isa == Isa::kAvx2 ? linear_tile_avx2
                                            : linear_tile_plain;
  const void* inputs = x;
  if (dtype_ == DType::kBFloat16) inputs = rounded_rows(isa, x, num_rows, in_features_, padded_in_);
  const int64_t group_bytes = kGroup * padded_in_ * size_of(dtype_);
  for_groups(num_groups_, group_bytes, [&](int64_t first, int64_t count) {
    const int64_t num_outputs = std::min(count * kGroup, out_features_ - first * kGroup);
    const int64_t out_stride = sink == nullptr ? out_features_ : count * kGroup;
    float* const tile_out = sink == nullptr ? out + first * kGroup : tile_buffer(num_rows * out_stride);
    LinearTile tile{packed_.data() + first * group_bytes,
                    group_bytes,
                    inputs,
                    padded_in_,
                    bias_.data() + first * kGroup,
                    padded_in_,
                    num_rows,
                    count,
                    tile_out,
                    out_stride,
                    num_outputs};
    run_tile(dtype_, tile);
    if (sink != nullptr) sink->take({tile_out, out_stride, first * kGroup, num_outputs});
  });
}

}  // namespace specgrove
