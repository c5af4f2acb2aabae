#include "trees.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace specgrove {
namespace {

using Edge = std::pair<int64_t, int64_t>;  // parent node, token id

std::vector<double> cumulative(const Tree& tree) {
  std::vector<double> sums(tree.token_ids.size(), 0.0);
  for (size_t node = 1; node < sums.size(); ++node) {
    sums[node] = sums[tree.parents[node]] + std::min(tree.log_probs[node], 0.0);
  }
  return sums;
}

Tree best_of(const Tree& tree, int64_t max_num_nodes) {
  const std::vector<double> scores = cumulative(tree);
  std::vector<int64_t> order(tree.token_ids.size());
  std::iota(order.begin(), order.end(), 0);
  // A parent scores no worse than its children and stands before them, so what is kept is a tree.
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  order.resize(max_num_nodes);
  std::sort(order.begin(), order.end());
  std::vector<int64_t> new_index(tree.token_ids.size(), -1);
  Tree kept;
  for (int64_t node : order) {
    new_index[node] = static_cast<int64_t>(kept.token_ids.size());
    kept.token_ids.push_back(tree.token_ids[node]);
    kept.parents.push_back(node == 0 ? -1 : new_index[tree.parents[node]]);
    kept.log_probs.push_back(tree.log_probs[node]);
    kept.sources.push_back(tree.sources[node]);
  }
  return kept;
}

}  // namespace

Tree merge_trees(const std::vector<Tree>& trees, int64_t max_num_nodes) {
  if (trees.empty() || max_num_nodes < 1) throw std::invalid_argument("at least one tree and one node are needed");
  Tree merged;
  std::map<Edge, int64_t> children;
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
      } else {
        merged.log_probs[place[node]] = std::max(merged.log_probs[place[node]], tree.log_probs[node]);
        merged.sources[place[node]] |= tree.sources[node];
      }
    }
  }
  if (static_cast<int64_t>(merged.token_ids.size()) <= max_num_nodes) return merged;
  return best_of(merged, max_num_nodes);
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
