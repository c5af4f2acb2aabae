// A decoder's pass as data: a flat array of ops over numbered buffers, run in order, with no Python between them.
//
// specgrove.program.cpu adds the ops, checks that they fit together, and keeps alive what their addresses and linears
// are of. Between ops that need somebody else (a sum over ranks, weights that have to come) lies a segment: one call of
// `run`. Buffers live on from segment to segment; they grow to what the largest pass needs, and never again. One pass
// at a time: the caller sees to it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "op.h"

namespace specgrove {

// What the rows of a program may name: they are checked against it before anything is written. Ids and positions that
// nobody looks up have no limit.
struct PassLimits {
  std::optional<int64_t> vocab_size, num_positions;
  bool has_caches;
};

class Program {
 public:
  // Numbers of a row that each buffer has room for.
  Program(std::vector<int64_t> widths, const PassLimits& limits);

  // Throws std::invalid_argument for a kind that no file in ops/ has, and for other fields than the kind's.
  void add(const std::string& kind, const NamedFields& fields);

  // Throws std::invalid_argument for a token id, position, slot or asked row that is not there.
  void begin(PassRows rows);
  // The ops from first on, before end. Where no rows are left, because nobody asks anything of any, none run.
  void run(size_t first, size_t end);
  void run_all() { run(0, ops_.size()); }
  // For each asked row a token id, or a constant of row_choices.h, once Choose has run.
  std::vector<int64_t> choices() const;

  int64_t num_rows() const { return pass_.num_rows; }
  float* buffer(int64_t place) { return pass_.buffers.at(place).data(); }

 private:
  void check(const PassRows& rows) const;
  void read_ahead(size_t first, size_t end) const;

  const std::vector<int64_t> widths_;
  std::vector<Op> ops_;
  const PassLimits limits_;
  Pass pass_;
};

}  // namespace specgrove
