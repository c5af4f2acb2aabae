#include "trees.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <queue>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace specgrove {
namespace {

using Edge = std::pair<int64_t, int64_t>;  // parent node, token id

// Log-probabilities are at most 0, and those of siblings those of a distribution: where they sum to more than 1 they
// are scaled.
void scale_siblings(Tree& tree, const std::vector<std::vector<int64_t>>& children) {
  std::vector<double> probs;
  for (const std::vector<int64_t>& siblings : children) {
    probs.clear();
    for (int64_t node : siblings) {
      tree.log_probs[node] = std::min(tree.log_probs[node], 0.0);
      probs.push_back(std::exp(tree.log_probs[node]));
    }
    std::sort(probs.begin(), probs.end());  // so that the sum doesn't depend on the order of the trees
    const double sum = std::accumulate(probs.begin(), probs.end(), 0.0);
    if (sum <= 1.0) continue;
    for (int64_t node : siblings) tree.log_probs[node] -= std::log(sum);
  }
}

// The best nodes by cumulative log-probability, best first. Of equal ones that comes first whose parent does, then the
// lower token id: so the result doesn't depend on the order of the nodes.
Tree best_first(const Tree& tree, const std::vector<std::vector<int64_t>>& children, int64_t max_num_nodes) {
  using Entry = std::tuple<double, int64_t, int64_t, int64_t>;  // minus the score, the parent's place, token id, node
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> open;
  open.emplace(0.0, -1, tree.token_ids[0], 0);
  Tree kept;
  while (!open.empty() && static_cast<int64_t>(kept.token_ids.size()) < max_num_nodes) {
    const auto [cost, parent, token_id, node] = open.top();
    open.pop();
    const int64_t place = static_cast<int64_t>(kept.token_ids.size());
    kept.token_ids.push_back(token_id);
    kept.parents.push_back(parent);
    kept.log_probs.push_back(tree.log_probs[node]);
    kept.sources.push_back(tree.sources[node]);
    for (int64_t child : children[node])
      open.emplace(cost - tree.log_probs[child], place, tree.token_ids[child], child);
  }
  return kept;
}

}  // namespace

Tree merge_trees(const std::vector<Tree>& trees, int64_t max_num_nodes) {
  if (trees.empty() || max_num_nodes < 1) throw std::invalid_argument("at least one tree and one node are needed");
  Tree merged;
  std::map<Edge, int64_t> children;
  std::vector<std::vector<int64_t>> children_of;
  for (const Tree& tree : trees) {
    if (tree.token_ids.empty() || tree.token_ids[0] != trees[0].token_ids.at(0)) {
      throw std::invalid_argument("trees to merge must have the same root");
    }
    const size_t num_nodes = tree.token_ids.size();
    if (tree.parents.size() != num_nodes || tree.log_probs.size() != num_nodes || tree.sources.size() != num_nodes) {
      throw std::invalid_argument("a tree's arrays must have one element per node");
    }
    std::vector<int64_t> place(num_nodes);
    for (size_t node = 0; node < num_nodes; ++node) {
      if (std::isnan(tree.log_probs[node])) throw std::invalid_argument("a log-probability must not be NaN");
      if (node > 0 && (tree.parents[node] < 0 || tree.parents[node] >= static_cast<int64_t>(node))) {
        throw std::invalid_argument("a parent must stand before its children");
      }
      const int64_t parent = node == 0 ? -1 : place[tree.parents[node]];
      const auto [entry, is_new] =
          children.try_emplace({parent, tree.token_ids[node]}, static_cast<int64_t>(merged.token_ids.size()));
      place[node] = entry->second;
      if (is_new) {
        merged.token_ids.push_back(tree.token_ids[node]);
        merged.parents.push_back(parent);
        merged.log_probs.push_back(tree.log_probs[node]);
        merged.sources.push_back(tree.sources[node]);
        children_of.emplace_back();
        if (parent >= 0) children_of[parent].push_back(place[node]);
        continue;
      }
      // A borrowed node's probability is its drafter's guess at what another one proposed.
      double& log_prob = merged.log_probs[place[node]];
      uint64_t& sources = merged.sources[place[node]];
      const bool is_borrowed = tree.sources[node] == 0, was_borrowed = sources == 0;
      if (is_borrowed == was_borrowed) log_prob = std::max(log_prob, tree.log_probs[node]);
      if (was_borrowed && !is_borrowed) log_prob = tree.log_probs[node];
      sources |= tree.sources[node];
    }
  }
  scale_siblings(merged, children_of);
  return best_first(merged, children_of, max_num_nodes);
}

std::string ancestor_masks(const std::vector<int64_t>& parents) {
  const size_t num_nodes = parents.size(), num_words = (num_nodes + 63) / 64;
  std::vector<uint64_t> words(num_nodes * num_words, 0);
  for (size_t node = 0; node < num_nodes; ++node) {
    if (parents[node] >= static_cast<int64_t>(node))
      throw std::invalid_argument("a parent must stand before its children");
    if (parents[node] >= 0) {
      std::copy_n(words.begin() + parents[node] * num_words, num_words, words.begin() + node * num_words);
    }
    words[node * num_words + node / 64] |= uint64_t{1} << (node % 64);
  }
  return {reinterpret_cast<const char*>(words.data()), words.size() * sizeof(uint64_t)};
}

std::vector<int64_t> walk_tree(const std::vector<int64_t>& token_ids, const std::vector<int64_t>& parents,
                               const std::vector<int64_t>& choices) {
  if (parents.size() != token_ids.size() || choices.size() != token_ids.size()) {
    throw std::invalid_argument("a tree's token ids, parents and choices must have one element per node");
  }
  std::vector<int64_t> accepted;
  int64_t current = 0;
  // Children stand after their parents, so that one pass finds the whole path.
  for (size_t node = 1; node < token_ids.size(); ++node) {
    if (parents[node] == current && token_ids[node] == choices[current]) {
      current = static_cast<int64_t>(node);
      accepted.push_back(current);
    }
  }
  return accepted;
}

void validate_tree(const std::vector<int64_t>& token_ids, const std::vector<int64_t>& parents, int64_t vocab_size,
                   int64_t max_num_nodes) {
  const auto fail = [](const std::string& text) { throw std::invalid_argument("malformed token tree: " + text); };
  const int64_t num_nodes = static_cast<int64_t>(token_ids.size());
  if (num_nodes == 0) fail("it has no root");
  if (parents.size() != token_ids.size()) {
    fail(std::to_string(num_nodes) + " token ids, but " + std::to_string(parents.size()) + " parents");
  }
  if (num_nodes > max_num_nodes) {
    fail(std::to_string(num_nodes) + " nodes, at most " + std::to_string(max_num_nodes) + " are allowed");
  }
  if (parents[0] != -1) fail("the root's parent must be -1, got " + std::to_string(parents[0]));
  std::map<Edge, int64_t> children;
  for (int64_t node = 0; node < num_nodes; ++node) {
    const std::string name = "node " + std::to_string(node);
    if (token_ids[node] < 0 || token_ids[node] >= vocab_size) {
      fail(name + " has token id " + std::to_string(token_ids[node]) + ", ids must be from 0 to " +
           std::to_string(vocab_size - 1));
    }
    if (node > 0 && (parents[node] < 0 || parents[node] >= node)) {
      fail(name + " has parent " + std::to_string(parents[node]) + ", a parent must stand before its children");
    }
    if (node > 0 && !children.try_emplace({parents[node], token_ids[node]}, node).second) {
      fail(name + " repeats token " + std::to_string(token_ids[node]) + " below its parent");
    }
  }
}

}  // namespace specgrove
