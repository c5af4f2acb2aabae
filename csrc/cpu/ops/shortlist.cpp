// The likeliest token ids of a row: the best by their scores, whose logits are then computed exactly.
//
// Of equal scores the lower place is the better one, NaN is as low as can be, and every row is worked on by itself: its
// result has the same bits whatever rows stand beside it, on every processor.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <type_traits>
#include <vector>

#include "../choice_key.h"
#include "../clones.h"
#include "../logit_scan.h"
#include "../op.h"
#include "../prefetch.h"
#include "../rows.h"

namespace specgrove {
namespace {

struct Shortlist {
  int64_t num_ids;    // scores of a row
  const void* table;  // [num_ids, size], or null: logits are the scores
  DType dtype;        // of the table
  int64_t size;       // numbers of a state
  int64_t num_candidates;
  float soft_cap;  // of logits and scores, as in RowChoices; 0: none
};

// Where candidates go, of each row by falling logit, those of equal logits by rising place.
struct Shortlisted {
  int32_t* places;     // [num_rows, num_candidates]
  float* logits;       // [num_rows, num_candidates]
  float* log_sum_exp;  // [num_rows]: of the candidates' logits and of all others' scores

  // Of the rows from first on.
  Shortlisted from(int64_t first, int64_t num_candidates) const {
    return {places + first * num_candidates, logits + first * num_candidates, log_sum_exp + first};
  }
};

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int64_t kGroup = 64;     // scores whose best bounds what is searched
constexpr int64_t kLanes = 32;     // partial sums of a product
constexpr int64_t kRowsAhead = 4;  // of the table that are fetched before they are used
constexpr int64_t kRowCosts = 4;   // cheap steps for each score of a row

// NaN becomes minus infinity. maxima[groups]: the largest of every group.
SPECGROVE_CLONES void group_maxima(float* scores, int64_t count, float* maxima) {
  for (int64_t start = 0; start < count; start += kGroup) {
    float lanes[kGroup];
    const int64_t size = std::min(kGroup, count - start);
    float* const group = scores + start;
    std::fill_n(lanes, kGroup, kMinusInfinity);
    if (size == kGroup) {
      for (int64_t i = 0; i < kGroup; ++i) lanes[i] = group[i] = group[i] == group[i] ? group[i] : kMinusInfinity;
    } else {
      for (int64_t i = 0; i < size; ++i) lanes[i] = group[i] = group[i] == group[i] ? group[i] : kMinusInfinity;
    }
    for (int64_t width = kGroup / 2; width > 0; width /= 2) {
      for (int64_t i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
    }
    maxima[start / kGroup] = lanes[0];
  }
}

template <typename T>
static inline float product_of(const float* x, const T* row, int64_t size) {
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += x[i + lane] * to_float(row[i + lane]);
  }
  for (int64_t lane = 0; i < size; ++i, ++lane) sums[lane] += x[i] * to_float(row[i]);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
  }
  return sums[0];
}

SPECGROVE_CLONES float product(const float* x, const float* row, int64_t size) { return product_of(x, row, size); }
SPECGROVE_CLONES float product(const float* x, const BFloat16* row, int64_t size) { return product_of(x, row, size); }
SPECGROVE_CLONES float product(const float* x, const Float16* row, int64_t size) { return product_of(x, row, size); }

// The places of the largest scores, rising. Valid until the thread's next call.
const std::vector<int32_t>& best_places(const Shortlist& call, float* scores) {
  thread_local std::vector<float> maxima, sorted;
  thread_local std::vector<uint64_t> keys;
  thread_local std::vector<int32_t> places;
  const int64_t count = call.num_ids, wanted = call.num_candidates;
  const int64_t num_groups = (count + kGroup - 1) / kGroup;
  maxima.resize(num_groups);
  group_maxima(scores, count, maxima.data());
  // As many groups as candidates are wanted have a score that is at least this: no candidate's is less.
  float threshold = kMinusInfinity;
  if (num_groups >= wanted) {
    sorted = maxima;
    std::nth_element(sorted.begin(), sorted.begin() + (wanted - 1), sorted.end(), std::greater<float>());
    threshold = sorted[wanted - 1];
  }
  keys.clear();
  for (int64_t group = 0; group < num_groups; ++group) {
    if (maxima[group] < threshold) continue;
    for (int64_t i = group * kGroup; i < std::min(count, (group + 1) * kGroup); ++i) {
      if (scores[i] >= threshold) keys.push_back(choice_key(scores[i], i));
    }
  }
  std::nth_element(keys.begin(), keys.begin() + (wanted - 1), keys.end(), std::greater<uint64_t>());
  places.clear();
  for (int64_t i = 0; i < wanted; ++i) places.push_back(static_cast<int32_t>(token_of_key(keys[i])));
  std::sort(places.begin(), places.end());
  return places;
}

template <typename T>
void rescore(const Shortlist& call, const T* table, const float* x, const int32_t* places, float* logits) {
  const auto fetch = [&](int64_t i) {
    if (i >= call.num_candidates) return;
    const char* const row = reinterpret_cast<const char*>(table + places[i] * call.size);
    const int64_t num_bytes = call.size * static_cast<int64_t>(sizeof(T));
    for (int64_t line = 0; line < num_bytes; line += kCacheLine) prefetch(row + line);
  };
  for (int64_t i = 0; i < kRowsAhead; ++i) fetch(i);
  for (int64_t i = 0; i < call.num_candidates; ++i) {
    fetch(i + kRowsAhead);
    logits[i] = product(x, table + places[i] * call.size, call.size);
  }
}

// scores have been capped; those of the candidates are overwritten.
float log_sum_exp_of(const Shortlist& call, float* scores, const int32_t* places, const float* logits) {
  for (int64_t i = 0; i < call.num_candidates; ++i) scores[places[i]] = kMinusInfinity;
  const float of_logits = max_or_nan(logits, call.num_candidates);
  if (of_logits != of_logits) return of_logits;
  const float maximum = std::max(of_logits, max_or_nan(scores, call.num_ids));
  if (std::isinf(maximum)) return maximum;
  const double total = sum_exp(logits, call.num_candidates, maximum) + sum_exp(scores, call.num_ids, maximum);
  return maximum + static_cast<float>(std::log(total));
}

void shortlist_row(const Shortlist& call, const float* x, float* scores, const Shortlisted& out) {
  thread_local std::vector<float> logits;
  thread_local std::vector<uint64_t> keys;
  const std::vector<int32_t>& places = best_places(call, scores);
  if (call.soft_cap > 0.0f) soft_cap(call.soft_cap, call.num_ids, scores);
  logits.resize(call.num_candidates);
  if (call.table == nullptr) {
    for (int64_t i = 0; i < call.num_candidates; ++i) logits[i] = scores[places[i]];
  } else {
    with_type(call.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      rescore(call, static_cast<const T*>(call.table), x, places.data(), logits.data());
    });
    if (call.soft_cap > 0.0f) soft_cap(call.soft_cap, call.num_candidates, logits.data());
  }
  *out.log_sum_exp = log_sum_exp_of(call, scores, places.data(), logits.data());
  keys.clear();
  for (int64_t i = 0; i < call.num_candidates; ++i) {
    keys.push_back(choice_key(logits[i] == logits[i] ? logits[i] : kMinusInfinity, i));
  }
  std::sort(keys.begin(), keys.end(), std::greater<uint64_t>());
  for (int64_t i = 0; i < call.num_candidates; ++i) {
    const int64_t from = token_of_key(keys[i]);
    out.places[i] = places[from];
    out.logits[i] = logits[from];
  }
}

constexpr int64_t kRowsScoredAtOnce = 16;  // a row has a score for every token id

const OpKind kShortlist("Shortlist", [](OpFields& fields) -> Op {
  const Buffer x = fields.buffer("x"), scored = fields.buffer("scored");
  const AnyLinear* const scores = fields.linear("scores");
  const bool has_table = !fields.is_none("table");
  const Tensor table = has_table ? fields.table("table", {kAnySize, x.width}) : Tensor();
  Shortlist call{};
  call.num_ids = scores->out_features();
  call.table = table.address;
  call.dtype = table.dtype();
  call.size = x.width;
  call.num_candidates = fields.integer("num_candidates");
  call.soft_cap = fields.number_or("soft_cap", 0.0f);
  return {[=](Pass& pass) {
            const std::vector<uintptr_t>& places = pass.given.shortlisted;
            const Shortlisted out{reinterpret_cast<int32_t*>(places.at(0)), reinterpret_cast<float*>(places.at(1)),
                                  reinterpret_cast<float*>(places.at(2))};
            for (int64_t first = 0; first < pass.num_rows; first += kRowsScoredAtOnce) {
              const int64_t num_rows = std::min(kRowsScoredAtOnce, pass.num_rows - first);
              float* const found = pass.scores.room(num_rows * call.num_ids);
              scores->forward(pass.at(scored) + first * scored.width, num_rows, found);
              for_rows(num_rows, kRowCosts * call.num_ids, [&](int64_t row) {
                shortlist_row(call, pass.at(x) + (first + row) * call.size, found + row * call.num_ids,
                              out.from(first + row, call.num_candidates));
              });
            }
          },
          scores};
});

}  // namespace
}  // namespace specgrove
