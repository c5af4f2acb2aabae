// The running softmax of a warp's 16 queries over passes of keys, by tensor cores.
#pragma once

#include <cmath>

#include "attention_work.cuh"

namespace specgrove::cuda {

constexpr float kLog2E = 1.44269504f;

__device__ inline float minus_infinity() { return -HUGE_VALF; }

// The running softmax of a warp's 16 queries. A lane has parts of queries group and group + 8 of them, group = lane
// / 4.
template <int kHeadDim>
struct Running {
  float sums[kHeadDim / 8][4];
  float maxima[2], totals[2];
};

// What a lane knows of its two queries.
struct Queries {
  int row[2], length[2];  // row of the tile, -1: none
  float slope[2];
};

__device__ inline Queries queries_of(const TreeAttention& attention, const Work& work, int first_query, int lane) {
  Queries found;
  for (int i = 0; i < 2; ++i) {
    const int query = first_query + lane / 4 + 8 * i;
    const bool is_there = query < work.num_queries;
    found.row[i] = is_there ? query / work.group_size : -1;
    found.length[i] = is_there ? work.lengths[found.row[i]] : 0;
    found.slope[i] = is_there && attention.alibi_slopes != nullptr
                         ? attention.alibi_slopes[work.kv_head * work.group_size + query % work.group_size] * kLog2E
                         : 0.0f;
  }
  return found;
}

// Whether all of the warp's queries see all keys of a whole pass.
__device__ inline bool sees_all(const TreeAttention& attention, const PlanPass& pass, const Queries& queries) {
  const int first = pass.first_position;
  bool is_hidden = false;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = queries.row[i], length = queries.length[i];
    if (row < 0) continue;
    const bool is_in = (pass.rows[row / 32] >> (row & 31) & 1u) != 0;
    is_hidden |= !is_in || first + kBlockKeys > length || (attention.window > 0 && first < length - attention.window);
  }
  return !any_lane(is_hidden);
}

// Of products that are still to be scaled: the scaled score becomes soft_cap * tanh(score / soft_cap). No sum follows a
// product, so nothing can be rounded otherwise where this is compiled twice.
__device__ inline void cap_scores(const TreeAttention& attention, float (&scores)[kBlockKeys / 8][4]) {
  const float limit = attention.soft_cap / attention.scale, factor = -2.0f * kLog2E / limit;
#pragma unroll
  for (int n = 0; n < kBlockKeys / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float power = fast_exp2(factor * fabsf(scores[n][j]));
      scores[n][j] = copysignf(limit * ((1.0f - power) / (1.0f + power)), scores[n][j]);
    }
  }
}

// scores[n] are of keys 8 n + 2 (lane % 4) and the next, of both queries: in units of log 2, and masked where some are
// hidden. Rounded as written, so that a row gets the same bits from all four variants: a bias of zero changes nothing.
template <bool kIsMasked, bool kHasSlopes>
__device__ inline void scale_scores(const TreeAttention& attention, const PlanPass& pass, const Queries& queries,
                                    int lane, float (&scores)[kBlockKeys / 8][4]) {
  const float scale = attention.scale * kLog2E;
  const int first = pass.first_position + 2 * (lane % 4);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = queries.row[i], length = queries.length[i];
    int end = 0, start = 0;
    if (kIsMasked) {
      end = row >= 0 && (pass.rows[(row < 0 ? 0 : row) / 32] >> (row & 31) & 1u) != 0 ? length : 0;
      start = attention.window > 0 ? length - attention.window : 0;
    }
#pragma unroll
    for (int n = 0; n < kBlockKeys / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int position = first + 8 * n + j;
        float& score = scores[n][2 * i + j];
        const float bias = kHasSlopes ? queries.slope[i] * static_cast<float>(position - (length - 1)) : 0.0f;
        score = fmaf(score, scale, bias);
        if (kIsMasked && (position >= end || position < start)) score = minus_infinity();
      }
    }
  }
}

// Turns scores into weights, and scales what was summed up before.
template <int kHeadDim>
__device__ inline void soften(float (&scores)[kBlockKeys / 8][4], Running<kHeadDim>* running) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float highest = minus_infinity();
#pragma unroll
    for (int n = 0; n < kBlockKeys / 8; ++n) highest = fmaxf(highest, fmaxf(scores[n][2 * i], scores[n][2 * i + 1]));
    highest = fmaxf(highest, shuffle_xor(highest, 1));
    highest = fmaxf(highest, shuffle_xor(highest, 2));
    const float before = running->maxima[i], now = fmaxf(before, highest);
    // Nothing seen so far: a difference of infinities is no number.
    const float base = now == minus_infinity() ? 0.0f : now;
    const float factor = fast_exp2(before - base);
    float total = 0.0f;
#pragma unroll
    for (int n = 0; n < kBlockKeys / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        scores[n][2 * i + j] = fast_exp2(scores[n][2 * i + j] - base);
        total += scores[n][2 * i + j];
      }
    }
    total += shuffle_xor(total, 1);
    total += shuffle_xor(total, 2);
    const float kept = before == minus_infinity() ? 0.0f : factor;
    running->totals[i] = fmaf(running->totals[i], kept, total);
    running->maxima[i] = now;
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      running->sums[d][2 * i] *= kept;
      running->sums[d][2 * i + 1] *= kept;
    }
  }
}

template <typename T, int kHeadDim, bool kIsWhole>
__device__ inline void score_keys(const T* queries, const T* keys, int num_keys, int lane,
                                  float (&scores)[kBlockKeys / 8][4]) {
  constexpr int kStride = Sizes<kHeadDim>::kStride;
#pragma unroll
  for (int n = 0; n < kBlockKeys / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) scores[n][j] = 0.0f;
  }
#pragma unroll(kHeadDim > 128 ? 1 : kHeadDim / 16)
  for (int k = 0; k < kHeadDim; k += 16) {
    uint32_t a[4];
    load_matrices(a, queries + lane % 16 * kStride + k + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < kBlockKeys / 8; n += 2) {
      if (!kIsWhole && n * 8 >= num_keys) break;  // the others are masked
      uint32_t b[4];                              // of 16 keys
      load_matrices(b, keys + (n * 8 + lane / 16 * 8 + lane % 8) * kStride + k + lane / 8 % 2 * 8);
      mma(scores[n], a, {b[0], b[1]}, T{});
      mma(scores[n + 1], a, {b[2], b[3]}, T{});
    }
  }
}

template <typename T, int kHeadDim, bool kIsWhole>
__device__ inline void add_values(const float (&weights)[kBlockKeys / 8][4], const T* values, int num_keys, int lane,
                                  Running<kHeadDim>* running) {
  constexpr int kStride = Sizes<kHeadDim>::kStride;
  uint32_t rounded[kBlockKeys / 16][4];  // all at once: half the registers
#pragma unroll
  for (int n = 0; n < kBlockKeys / 16; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float (&two)[4] = weights[2 * n + i / 2];
      rounded[n][i] = pack<T>(two[i % 2 * 2], two[i % 2 * 2 + 1]);
    }
  }
#pragma unroll
  for (int n = 0; n < kBlockKeys / 16; ++n) {
    if (!kIsWhole && n * 16 >= num_keys) break;  // their weights are zero
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; d += 2) {
      uint32_t b[4];
      load_matrices_transposed(b, values + (n * 16 + lane % 16) * kStride + d * 8 + lane / 16 * 8);
      mma(running->sums[d], rounded[n], {b[0], b[1]}, T{});
      mma(running->sums[d + 1], rounded[n], {b[2], b[3]}, T{});
    }
  }
}

// Takes a pass's keys and values in. kIsWhole: it has kBlockKeys of them.
template <typename T, int kHeadDim, bool kIsWhole>
__device__ inline void take_pass(const TreeAttention& attention, const PlanPass& pass, const Queries& queries,
                                 const T* own, const T* keys, int lane, Running<kHeadDim>* running) {
  const int num_keys = kIsWhole ? kBlockKeys : pass.num_keys;
  const bool has_slopes = attention.alibi_slopes != nullptr;
  float scores[kBlockKeys / 8][4];
  score_keys<T, kHeadDim, kIsWhole>(own, keys, num_keys, lane, scores);
  if (attention.soft_cap > 0.0f) cap_scores(attention, scores);
  if (kIsWhole && sees_all(attention, pass, queries)) {
    if (has_slopes) {
      scale_scores<false, true>(attention, pass, queries, lane, scores);
    } else {
      scale_scores<false, false>(attention, pass, queries, lane, scores);
    }
  } else if (has_slopes) {
    scale_scores<true, true>(attention, pass, queries, lane, scores);
  } else {
    scale_scores<true, false>(attention, pass, queries, lane, scores);
  }
  soften<kHeadDim>(scores, running);
  add_values<T, kHeadDim, kIsWhole>(scores, keys + kBlockKeys * Sizes<kHeadDim>::kStride, num_keys, lane, running);
}

// Divides by the totals and writes the tile's rows; for one split from the lanes' own numbers.
template <typename T, int kHeadDim>
__device__ inline void write_rows(const TreeAttention& attention, const Work& work, int first_query, int lane,
                                  const Running<kHeadDim>& running) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = first_query + lane / 4 + 8 * i;
    if (query >= work.num_queries) continue;
    auto* const out = static_cast<uint32_t*>(attention.out) + head_index(attention, work, query) * (kHeadDim / 2);
    const float share = 1.0f / running.totals[i];
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
      out[d * 4 + lane % 4] = pack<T>(running.sums[d][2 * i] * share, running.sums[d][2 * i + 1] * share);
    }
  }
}

}  // namespace specgrove::cuda
