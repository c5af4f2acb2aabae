#include "program.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <utility>

#include "tile_state.h"

namespace specgrove {
namespace {

std::map<std::string, OpMaker>& op_makers() {
  static std::map<std::string, OpMaker> makers;
  return makers;
}

template <typename Index>
void check_indices(const Index* values, int64_t count, int64_t limit, const std::string& what) {
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] >= 0 && values[i] < limit) continue;
    throw std::invalid_argument(what + " must be from 0 to " + std::to_string(limit - 1) + ", got " +
                                std::to_string(values[i]));
  }
}

}  // namespace

OpKind::OpKind(const std::string& name, OpMaker maker) { op_makers()[name] = maker; }

OpMaker OpKind::find(const std::string& name) {
  const auto found = op_makers().find(name);
  if (found == op_makers().end()) throw std::invalid_argument("the CPU's kernels have no op " + name);
  return found->second;
}

Program::Program(std::vector<int64_t> widths, const PassLimits& limits) : widths_(std::move(widths)), limits_(limits) {
  pass_.buffers.resize(widths_.size());
}

void Program::add(const std::string& kind, const NamedFields& fields) {
  OpFields named(kind, fields, widths_);
  ops_.push_back(OpKind::find(kind)(named));
  named.check_all_read();
}

void Program::check(const PassRows& rows) const {
  for (size_t i = 0; i < rows.asked.size(); ++i) {
    const int64_t before = i == 0 ? -1 : rows.asked_rows[i - 1];
    if (rows.asked_rows[i] <= before || rows.asked_rows[i] >= rows.num_rows) {
      throw std::invalid_argument("asked rows must be rows of the pass, in rising order");
    }
  }
  if (limits_.vocab_size) check_indices(rows.token_ids, rows.num_rows, *limits_.vocab_size, "token ids");
  if (limits_.num_positions) check_indices(rows.positions, rows.num_rows, *limits_.num_positions, "positions");
  if (limits_.has_caches) {
    check_indices(rows.slots, rows.num_rows, rows.caches->num_slots, "slots");
    check_slots(*rows.plan, rows.caches->num_slots);
  }
}

void Program::begin(PassRows rows) {
  check(rows);
  for (size_t place = 0; place < widths_.size(); ++place) {
    std::vector<float>& buffer = pass_.buffers[place];
    buffer.resize(std::max<size_t>(buffer.size(), rows.num_rows * widths_[place]));
  }
  pass_.given = std::move(rows);
  pass_.num_rows = pass_.given.num_rows;
  pass_.plan = pass_.given.plan;
}

void Program::run(size_t first, size_t end) {
  const TilesInUse in_use;
  for (size_t place = first; place < std::min(end, ops_.size()) && pass_.num_rows > 0; ++place) {
    if (ops_[place].linear != nullptr) read_ahead(place + 1, end);
    ops_[place].run(pass_);
  }
}

// The weights that are used next, while these are.
void Program::read_ahead(size_t first, size_t end) const {
  for (size_t place = first; place < std::min(end, ops_.size()); ++place) {
    if (ops_[place].linear != nullptr) return ops_[place].linear->read_ahead();
  }
}

std::vector<int64_t> Program::choices() const {
  std::vector<int64_t> found(pass_.given.asked.size());
  for (size_t i = 0; i < found.size(); ++i) found[i] = pass_.choices.choice(i);
  return found;
}

}  // namespace specgrove
