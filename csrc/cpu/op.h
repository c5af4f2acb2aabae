// An op of a program, what it sees of a pass under way, and how kinds of ops come to be known: each file in ops/ names
// its own.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "../op_fields.h"
#include "attention.h"
#include "number_types.h"
#include "row_choices.h"
#include "scratch.h"

namespace specgrove {

// Of all layers, [num_slots, num_kv_heads, head_dim] each.
struct KvCaches {
  std::vector<uintptr_t> keys, values;  // addresses
  DType dtype;
  int64_t num_slots;
};

// What a pass is given. All that it points to stays as it is until the pass ends.
struct PassRows {
  int64_t num_rows;
  const int64_t* token_ids;  // [num_rows]
  const int32_t* positions;  // [num_rows]
  const int32_t* slots;      // [num_rows]: where keys and values go
  const AttentionPlan* plan;
  const KvCaches* caches;
  const float* hidden;                 // [num_rows, size]: what Input takes; null where nothing does
  std::vector<uintptr_t> kept;         // where hidden states go that are handed out
  std::vector<uintptr_t> shortlisted;  // and what Shortlist finds, if it is there
  const int64_t* asked_rows;           // the rows that are asked for something, in rising order
  std::vector<AskedRow> asked;         // what each of them is asked for
};

// A pass under way, as its ops see it.
struct Pass {
  PassRows given{};
  int64_t num_rows = 0;                 // fewer once rows are taken
  const AttentionPlan* plan = nullptr;  // of these rows
  AttentionPlan plan_of_asked;
  RowChoices choices;
  Scratch<float> scores;                    // of a shortlist
  std::vector<std::vector<float>> buffers;  // [num_rows, what an op writes], without gaps

  float* at(const Buffer& buffer) { return buffers[buffer.place].data(); }
};

struct Op {
  std::function<void(Pass& pass)> run;
  const AnyLinear* linear = nullptr;  // by which it multiplies
};

// What its fields are is said in specgrove/program/ops.py, and so is what it computes. Throws std::invalid_argument.
using OpMaker = Op (*)(OpFields& fields);

// A kind of ops, by the name of its class there. For constants of files in ops/.
class OpKind {
 public:
  OpKind(const std::string& name, OpMaker maker);

  // Throws std::invalid_argument where there is none of this name.
  static OpMaker find(const std::string& name);
};

}  // namespace specgrove
