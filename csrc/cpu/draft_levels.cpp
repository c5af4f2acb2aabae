#include "draft_levels.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace specgrove {
namespace {

constexpr int64_t kRoot = -1;
constexpr int64_t kMaskBits = 64;

// A node that was proposed; what it proposes itself is known once it was expanded.
struct ProposedNode {
  int64_t parent;  // place among the nodes found; kRoot
  int64_t token_id;
  double log_prob, score;
};

class LevelDrafter {
 public:
  LevelDrafter(Program& program, const LevelDraft& draft) : program_(program), draft_(draft) {
    found_.reserve(draft.slots.size());
  }

  Drafted run() {
    if (draft_.read == nullptr) {
      root_proposals_ = draft_.root_proposals;
    } else {
      read(*draft_.read);
    }
    if (!root_proposals_.empty()) draft_tree();
    return {std::move(root_proposals_), std::move(found_)};
  }

 private:
  void draft_tree() {
    std::vector<int64_t> above{kRoot};
    for (size_t depth = 0; depth < draft_.levels.size(); ++depth) {
      const DraftLevel& level = draft_.levels[depth];
      const std::vector<ProposedNode> expanded = expanded_of(level, propose(level, above));
      const bool is_last = depth + 1 == draft_.levels.size() || draft_.levels[depth + 1].num_children == 0;
      if (is_last || expanded.empty() || found_.size() + expanded.size() > draft_.slots.size()) break;
      const size_t first = found_.size();
      for (const ProposedNode& node : expanded) {
        found_.push_back({node.parent, node.token_id, node.log_prob, node.score, {}});
      }
      if (!expand(level, static_cast<int32_t>(draft_.first_position + depth), first)) {
        found_.resize(first);
        break;
      }
      above.resize(expanded.size());
      std::iota(above.begin(), above.end(), static_cast<int64_t>(first));
    }
  }

  // One pass over the context's last tokens, each of which sees those before it and itself.
  void read(const ReadRows& rows) {
    const int64_t num_rows = rows.num_rows, first = draft_.context_len - num_rows;
    hidden_.resize(num_rows * rows.hidden_size);
    std::transform(rows.hidden, rows.hidden + hidden_.size(), hidden_.begin(), [](BFloat16 x) { return to_float(x); });
    std::vector<int32_t> positions(num_rows), row_context_len(num_rows);
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(draft_.first_position - num_rows));
    std::iota(row_context_len.begin(), row_context_len.end(), static_cast<int32_t>(first + 1));
    const std::vector<int32_t> row_seq(num_rows, 0);
    const std::vector<uint64_t> masks(num_rows, 0);
    const int32_t context_offsets[] = {0, static_cast<int32_t>(draft_.context_len)}, tree_offsets[] = {0, 0};
    const AttentionPlan plan({draft_.context_slots, draft_.context_len, context_offsets, nullptr, 0, tree_offsets, 1,
                              row_seq.data(), row_context_len.data(), masks.data(), num_rows, 1});
    const int64_t asked_row = num_rows - 1;
    rows.program->begin({num_rows,
                         rows.token_ids,
                         positions.data(),
                         draft_.context_slots + first,
                         &plan,
                         draft_.caches,
                         hidden_.data(),
                         {address(draft_.root_state)},
                         {address(rows.places), address(rows.logits), address(rows.log_sum_exp)},
                         &asked_row,
                         {AskedRow{nullptr, 0.0f, 0, 0}}});
    rows.program->run_all();
    root_proposals_ = proposals_of(rows.choice, rows.places, rows.logits, *rows.log_sum_exp);
  }

  // The children of some nodes, which count as nodes of the tree from now on.
  std::vector<ProposedNode> propose(const DraftLevel& level, const std::vector<int64_t>& above) {
    std::vector<ProposedNode> children;
    for (const int64_t parent : above) {
      const Proposals& proposals = parent == kRoot ? root_proposals_ : found_[parent].proposals;
      const double score = parent == kRoot ? 0.0 : found_[parent].score;
      const size_t count = std::min<size_t>(proposals.size(), level.num_children);
      for (size_t i = 0; i < count; ++i) {
        const auto [token_id, log_prob] = proposals[i];
        children.push_back({parent, token_id, log_prob, score + log_prob});
        scores_.push_back(score + log_prob);
      }
    }
    return children;
  }

  // Those to expand, in the order of their making; none where a level below them is not worth its time.
  std::vector<ProposedNode> expanded_of(const DraftLevel& level, std::vector<ProposedNode> nodes) {
    if (static_cast<int64_t>(scores_.size()) >= draft_.max_num_nodes) {
      const auto last = scores_.begin() + (draft_.max_num_nodes - 1);
      std::nth_element(scores_.begin(), last, scores_.end(), std::greater<double>());
      const double worst_kept = *last;
      const auto is_hopeless = [&](const ProposedNode& node) { return !(node.score > worst_kept); };
      nodes.erase(std::remove_if(nodes.begin(), nodes.end(), is_hopeless), nodes.end());
    }
    std::vector<size_t> order(nodes.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return nodes[a].score > nodes[b].score; });
    order.resize(std::min<size_t>(order.size(), level.num_expanded));
    std::sort(order.begin(), order.end());
    std::vector<ProposedNode> expanded;
    double prob = 0.0;
    for (const size_t place : order) {
      expanded.push_back(nodes[place]);
      prob += std::exp(nodes[place].score);
    }
    if (prob < draft_.min_level_prob) expanded.clear();
    return expanded;
  }

  // One pass over the nodes found last, which are of one level. False where one of them proposes nothing.
  bool expand(const DraftLevel& level, int32_t position, size_t first) {
    const size_t num_rows = found_.size() - first;
    const AttentionPlan plan = plan_of(first);
    std::vector<int64_t> token_ids, asked_rows;
    hidden_.clear();
    for (size_t place = first; place < found_.size(); ++place) {
      const FoundNode& node = found_[place];
      token_ids.push_back(node.token_id < draft_.vocab_size ? node.token_id : 0);
      asked_rows.push_back(static_cast<int64_t>(place - first));
      const float* const state =
          node.parent == kRoot ? draft_.root_state : draft_.states + node.parent * draft_.state_size;
      hidden_.insert(hidden_.end(), state, state + draft_.state_size);
    }
    const std::vector<int32_t> positions(num_rows, position);
    places_.resize(num_rows * draft_.num_candidates);
    logits_.resize(places_.size());
    log_sum_exp_.resize(num_rows);
    program_.begin({static_cast<int64_t>(num_rows),
                    token_ids.data(),
                    positions.data(),
                    draft_.slots.data() + first,
                    &plan,
                    draft_.caches,
                    hidden_.data(),
                    {address(draft_.states + first * draft_.state_size)},
                    {address(places_.data()), address(logits_.data()), address(log_sum_exp_.data())},
                    asked_rows.data(),
                    std::vector<AskedRow>(num_rows, AskedRow{nullptr, 0.0f, 0, 0})});
    program_.run_all();
    bool is_sound = true;
    for (size_t row = 0; row < num_rows; ++row) {
      const size_t start = row * draft_.num_candidates;
      Proposals& proposals = found_[first + row].proposals;
      proposals = proposals_of(level.choice, places_.data() + start, logits_.data() + start, log_sum_exp_[row]);
      is_sound &= !proposals.empty();
    }
    return is_sound;
  }

  // Each sees the context, its ancestors and itself.
  AttentionPlan plan_of(size_t first) const {
    const auto num_nodes = static_cast<int64_t>(found_.size()), num_rows = num_nodes - static_cast<int64_t>(first);
    const int64_t num_words = (num_nodes + kMaskBits - 1) / kMaskBits;
    std::vector<uint64_t> masks(num_rows * num_words, 0);
    for (int64_t row = 0; row < num_rows; ++row) {
      for (int64_t node = static_cast<int64_t>(first) + row; node != kRoot; node = found_[node].parent) {
        masks[row * num_words + node / kMaskBits] |= uint64_t{1} << (node % kMaskBits);
      }
    }
    const auto context_len = static_cast<int32_t>(draft_.context_len);
    const int32_t context_offsets[] = {0, context_len}, tree_offsets[] = {0, static_cast<int32_t>(num_nodes)};
    const std::vector<int32_t> row_seq(num_rows, 0), row_context_len(num_rows, context_len);
    return AttentionPlan({draft_.context_slots, draft_.context_len, context_offsets, draft_.slots.data(), num_nodes,
                          tree_offsets, 1, row_seq.data(), row_context_len.data(), masks.data(), num_rows, num_words});
  }

  // The best of a row's candidates.
  Proposals proposals_of(const CandidateRow& choice, const int32_t* places, const float* logits, float log_sum_exp) {
    const int64_t count = draft_.num_candidates, k = draft_.num_kept;
    ids_.assign(places, places + count);
    if (draft_.token_ids != nullptr) {
      for (int64_t& id : ids_) id = draft_.token_ids[id];
    }
    best_ids_.resize(k);
    log_probs_.resize(k);
    best_candidates({ids_.data(), logits, count, log_sum_exp}, choice, draft_.noise_weight, k, log_probs_.data(),
                    best_ids_.data());
    Proposals proposals;
    for (int64_t i = 0; i < k && best_ids_[i] >= 0; ++i) proposals.emplace_back(best_ids_[i], log_probs_[i]);
    return proposals;
  }

  static uintptr_t address(const void* values) { return reinterpret_cast<uintptr_t>(values); }

  Program& program_;
  const LevelDraft& draft_;
  Proposals root_proposals_;
  std::vector<FoundNode> found_;
  std::vector<double> scores_;  // of all nodes that were proposed, in no order
  std::vector<float> hidden_, logits_, log_sum_exp_, log_probs_;
  std::vector<int32_t> places_;
  std::vector<int64_t> ids_, best_ids_;
};

}  // namespace

Drafted draft_levels(Program& program, const LevelDraft& draft) { return LevelDrafter(program, draft).run(); }

}  // namespace specgrove
