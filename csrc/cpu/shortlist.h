// The likeliest token ids of a row: the best by their scores, whose logits are then computed exactly.
//
// Of equal scores the lower place is the better one, NaN is as low as can be, and every row is worked on by itself: its
// result has the same bits whatever rows stand beside it, on every processor.
#pragma once

#include <cstdint>

#include "number_types.h"

namespace specgrove {

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

// x[num_rows, size] and scores[num_rows, num_ids]; the scores are not kept.
void shortlist(const Shortlist& call, const float* x, float* scores, int64_t num_rows, const Shortlisted& out);

}  // namespace specgrove
