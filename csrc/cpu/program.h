// A decoder's pass as data: a flat array of ops over numbered buffers, run in order, with no Python between them.
//
// specgrove.program.cpu adds the ops, checks that they fit together, and keeps alive what their addresses and linears
// are of. Between ops that need somebody else (a sum over ranks, weights that have to come) lies a segment: one call of
// `run`. Buffers live on from segment to segment; they grow to what the largest pass needs, and never again. One pass
// at a time: the caller sees to it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "any_linear.h"
#include "attention.h"
#include "number_types.h"
#include "op_fields.h"
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
  const float* hidden;          // [num_rows, size]: what `input` takes; null where nothing does
  std::vector<uintptr_t> kept;  // where hidden states go that are handed out, then what Shortlisted has
  const int64_t* asked_rows;    // the rows that are asked for something, in rising order
  std::vector<AskedRow> asked;  // what each of them is asked for
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

  float* at(int64_t buffer) { return buffers[buffer].data(); }
};

// What a program's ops can take: rows are checked against it before anything is written.
struct PassLimits {
  int64_t vocab_size, num_positions;
  bool has_slots, has_attention;
};

struct Op {
  std::function<void(Pass& pass)> run;
  const AnyLinear* linear = nullptr;  // by which it multiplies
};

class Program {
 public:
  // Numbers of a row that each buffer has room for.
  explicit Program(std::vector<int64_t> widths);

  // The kinds and their fields are in program.cpp. Throws std::invalid_argument for others.
  void add(const std::string& kind, const std::map<std::string, OpField>& fields);

  // Throws std::invalid_argument for a token id, position, slot or asked row that is not there.
  void begin(PassRows rows);
  // The ops from first on, before end. Where no rows are left, because nobody asks anything of any, none run.
  void run(size_t first, size_t end);
  // For each asked row a token id, or a constant of row_choices.h, once `choose` has run.
  std::vector<int64_t> choices() const;

  int64_t num_rows() const { return pass_.num_rows; }
  float* buffer(int64_t place) { return pass_.buffers.at(place).data(); }

 private:
  void check(const PassRows& rows) const;
  void read_ahead(size_t first, size_t end) const;

  const std::vector<int64_t> widths_;
  std::vector<Op> ops_;
  PassLimits limits_;
  Pass pass_;
};

}  // namespace specgrove
