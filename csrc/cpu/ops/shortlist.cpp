// The likeliest token ids of a row: the best by their scores, whose logits are then computed exactly.
//
// Of equal scores the lower place is the better one, NaN is as low as can be, and every row is worked on by itself: its
// result has the same bits whatever rows stand beside it, on every processor. All steps share a row's ids out among
// threads: a draft often has one row, and its ids are a whole vocabulary.
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
// In cheap steps: of each score when candidates are searched for, of each number of a product, of each exponential, and
// of each candidate that is handed out.
constexpr int64_t kSearchCosts = 1, kProductCosts = 2, kExpCosts = 8, kHandOutCosts = 256;

// NaN becomes minus infinity. maxima[num_groups]: the largest of every group, all of which are whole.
SPECGROVE_CLONES void group_maxima(float* scores, int64_t num_groups, float* maxima) {
  for (int64_t number = 0; number < num_groups; ++number) {
    float lanes[kGroup];
    float* const group = scores + number * kGroup;
    for (int64_t i = 0; i < kGroup; ++i) lanes[i] = group[i] = group[i] == group[i] ? group[i] : kMinusInfinity;
    for (int64_t width = kGroup / 2; width > 0; width /= 2) {
      for (int64_t i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
    }
    maxima[number] = lanes[0];
  }
}

// The same of a group that may be cut off.
float group_maximum(float* group, int64_t size) {
  float largest = kMinusInfinity;
  if (size == kGroup) {
    group_maxima(group, 1, &largest);
    return largest;
  }
  for (int64_t i = 0; i < size; ++i) {
    group[i] = group[i] == group[i] ? group[i] : kMinusInfinity;
    largest = std::max(largest, group[i]);
  }
  return largest;
}

// Rows on their way from scores to candidates.
struct Rows {
  int64_t num_ids, num_rows;
  float* scores = nullptr;    // [num_rows, num_ids]
  float* maxima = nullptr;    // [num_rows, num_groups]: of each group; NaN: nobody has looked at it yet
  int32_t* places = nullptr;  // [num_rows, num_candidates]: of the candidates, rising
  float* logits = nullptr;    // [num_rows, num_candidates]: theirs
  double* sums = nullptr;     // [num_rows, num_chunks]: of exponentials

  int64_t num_groups() const { return (num_ids + kGroup - 1) / kGroup; }
  int64_t num_chunks() const { return (num_ids + kSumChunk - 1) / kSumChunk; }
  float* scores_of(int64_t row) const { return scores + row * num_ids; }
  float* maxima_of(int64_t row) const { return maxima + row * num_groups(); }
};

// Takes scores while they are in a cache, and looks at those groups that lie in one tile.
class ScoreSink : public TileSink {
 public:
  explicit ScoreSink(const Rows& rows) : rows_(rows) {
    std::fill_n(rows.maxima, rows.num_rows * rows.num_groups(), std::numeric_limits<float>::quiet_NaN());
  }

  void take(const OutputTile& tile) override {
    const int64_t first_group = (tile.first_output + kGroup - 1) / kGroup;
    const int64_t num_whole = (tile.first_output + tile.num_outputs) / kGroup - first_group;
    for (int64_t row = 0; row < rows_.num_rows; ++row) {
      float* const scores = rows_.scores_of(row);
      std::copy_n(tile.values + row * tile.row_stride, tile.num_outputs, scores + tile.first_output);
      group_maxima(scores + first_group * kGroup, num_whole, rows_.maxima_of(row) + first_group);
    }
  }

 private:
  const Rows& rows_;
};

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

// The places of a row's largest scores, rising.
void find_best_places(const Shortlist& call, const Rows& rows, int64_t row) {
  thread_local std::vector<float> sorted;
  thread_local std::vector<uint64_t> keys;
  const int64_t count = call.num_ids, wanted = call.num_candidates, num_groups = rows.num_groups();
  float* const scores = rows.scores_of(row);
  float* const maxima = rows.maxima_of(row);
  for (int64_t group = 0; group < num_groups; ++group) {
    const int64_t start = group * kGroup;
    if (maxima[group] != maxima[group]) maxima[group] = group_maximum(scores + start, std::min(kGroup, count - start));
  }
  // As many groups as candidates are wanted have a score that is at least this: no candidate's is less.
  float threshold = kMinusInfinity;
  if (num_groups >= wanted) {
    sorted.assign(maxima, maxima + num_groups);
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
  int32_t* const places = rows.places + row * wanted;
  for (int64_t i = 0; i < wanted; ++i) places[i] = static_cast<int32_t>(token_of_key(keys[i]));
  std::sort(places, places + wanted);
}

// The logits of candidates from first on, before end.
template <typename T>
void rescore(const Shortlist& call, const T* table, const float* x, const int32_t* places, int64_t first, int64_t end,
             float* logits) {
  const auto fetch = [&](int64_t i) {
    if (i >= end) return;
    const char* const row = reinterpret_cast<const char*>(table + places[i] * call.size);
    const int64_t num_bytes = call.size * static_cast<int64_t>(sizeof(T));
    for (int64_t line = 0; line < num_bytes; line += kCacheLine) prefetch(row + line);
  };
  for (int64_t i = first; i < first + kRowsAhead; ++i) fetch(i);
  for (int64_t i = first; i < end; ++i) {
    fetch(i + kRowsAhead);
    logits[i] = product(x, table + places[i] * call.size, call.size);
  }
}

// x is [num_rows, size].
void find_logits(const Shortlist& call, const Rows& rows, const float* x) {
  const int64_t count = call.num_candidates;
  if (call.table == nullptr) {
    for (int64_t row = 0; row < rows.num_rows; ++row) {
      for (int64_t i = row * count; i < (row + 1) * count; ++i) rows.logits[i] = rows.scores_of(row)[rows.places[i]];
    }
  } else {
    for_ranges(rows.num_rows * count, kProductCosts * call.size, [&](int64_t first, int64_t end) {
      while (first < end) {
        const int64_t row = first / count, end_of_row = std::min(end, (row + 1) * count);
        with_type(call.dtype, [&](auto* type) {
          using T = std::remove_pointer_t<decltype(type)>;
          rescore(call, static_cast<const T*>(call.table), x + row * call.size, rows.places, first, end_of_row,
                  rows.logits);
        });
        first = end_of_row;
      }
    });
  }
  if (call.soft_cap > 0.0f) soft_cap(call.soft_cap, rows.num_rows * count, rows.logits);
}

// The largest of a row's scores but for the candidates', which become minus infinity. Scores are capped here.
float largest_of_others(const Shortlist& call, const Rows& rows, int64_t row) {
  float* const scores = rows.scores_of(row);
  float* const maxima = rows.maxima_of(row);
  const int32_t* const places = rows.places + row * call.num_candidates;
  for (int64_t i = 0; i < call.num_candidates; ++i) scores[places[i]] = kMinusInfinity;
  if (call.soft_cap > 0.0f) {
    soft_cap(call.soft_cap, call.num_ids, scores);
    for (int64_t i = 0; i < call.num_candidates; ++i) scores[places[i]] = kMinusInfinity;
    return max_or_nan(scores, call.num_ids);
  }
  for (int64_t i = 0; i < call.num_candidates; ++i) {
    const int64_t group = places[i] / kGroup, start = group * kGroup;
    if (i > 0 && places[i - 1] / kGroup == group) continue;
    maxima[group] = group_maximum(scores + start, std::min(kGroup, call.num_ids - start));
  }
  return max_or_nan(maxima, rows.num_groups());
}

// Of the largest of a row's logits and other scores; those that are no numbers, or infinite, are the result themselves.
float maximum_of(const Shortlist& call, const Rows& rows, int64_t row) {
  const float of_logits = max_or_nan(rows.logits + row * call.num_candidates, call.num_candidates);
  return of_logits != of_logits ? of_logits : std::max(of_logits, largest_of_others(call, rows, row));
}

// Candidates by falling logit.
void hand_out(const Shortlist& call, const Rows& rows, int64_t row, const Shortlisted& out) {
  thread_local std::vector<uint64_t> keys;
  const float* const logits = rows.logits + row * call.num_candidates;
  keys.clear();
  for (int64_t i = 0; i < call.num_candidates; ++i) {
    keys.push_back(choice_key(logits[i] == logits[i] ? logits[i] : kMinusInfinity, i));
  }
  std::sort(keys.begin(), keys.end(), std::greater<uint64_t>());
  for (int64_t i = 0; i < call.num_candidates; ++i) {
    const int64_t from = token_of_key(keys[i]);
    out.places[i] = rows.places[row * call.num_candidates + from];
    out.logits[i] = logits[from];
  }
}

// log_sum_exp holds the rows' maxima.
void find_log_sum_exp(const Shortlist& call, const Rows& rows, float* log_sum_exp) {
  const int64_t num_chunks = rows.num_chunks();
  for_rows(rows.num_rows * num_chunks, kExpCosts * kSumChunk, [&](int64_t part) {
    const int64_t row = part / num_chunks, start = part % num_chunks * kSumChunk;
    if (!std::isfinite(log_sum_exp[row])) return;
    rows.sums[part] = sum_exp(rows.scores_of(row) + start, std::min(kSumChunk, call.num_ids - start), log_sum_exp[row]);
  });
  for (int64_t row = 0; row < rows.num_rows; ++row) {
    const float maximum = log_sum_exp[row];
    if (!std::isfinite(maximum)) continue;
    double of_scores = 0.0;
    for (int64_t part = row * num_chunks; part < (row + 1) * num_chunks; ++part) of_scores += rows.sums[part];
    const double of_logits = sum_exp(rows.logits + row * call.num_candidates, call.num_candidates, maximum);
    log_sum_exp[row] = maximum + static_cast<float>(std::log(of_logits + of_scores));
  }
}

void shortlist(const Shortlist& call, const AnyLinear& linear, const Rows& rows, const float* scored, const float* x,
               const Shortlisted& out) {
  ScoreSink sink(rows);
  linear.forward_to(scored, rows.num_rows, &sink);
  for_rows(rows.num_rows, kSearchCosts * call.num_ids, [&](int64_t row) { find_best_places(call, rows, row); });
  find_logits(call, rows, x);
  for_rows(rows.num_rows, kHandOutCosts * call.num_candidates, [&](int64_t row) {
    hand_out(call, rows, row, out.from(row, call.num_candidates));
    out.log_sum_exp[row] = maximum_of(call, rows, row);
  });
  find_log_sum_exp(call, rows, out.log_sum_exp);
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
            thread_local Scratch<float> floats;
            thread_local Scratch<int32_t> integers;
            thread_local Scratch<double> sums;
            for (int64_t first = 0; first < pass.num_rows; first += kRowsScoredAtOnce) {
              Rows rows{call.num_ids, std::min(kRowsScoredAtOnce, pass.num_rows - first)};
              rows.scores = pass.scores.room(rows.num_rows * call.num_ids);
              rows.maxima = floats.room(rows.num_rows * (rows.num_groups() + call.num_candidates));
              rows.logits = rows.maxima + rows.num_rows * rows.num_groups();
              rows.places = integers.room(rows.num_rows * call.num_candidates);
              rows.sums = sums.room(rows.num_rows * rows.num_chunks());
              shortlist(call, *scores, rows, pass.at(scored) + first * scored.width, pass.at(x) + first * call.size,
                        out.from(first, call.num_candidates));
            }
          },
          scores};
});

}  // namespace
}  // namespace specgrove
