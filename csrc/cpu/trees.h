// Token trees as flat arrays: merging, ancestor masks, walking, checking. See specgrove/loop/token_tree.py for the
// invariants.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace specgrove {

struct Tree {
  std::vector<int64_t> token_ids, parents;
  std::vector<double> log_probs;
  std::vector<uint64_t> sources;
};

// Equal root paths become one node, of the largest log-probability that a tree with sources there gives it; siblings'
// probabilities are scaled to sum to at most 1. The best max_num_nodes by cumulative log-probability, best first.
Tree merge_trees(const std::vector<Tree>& trees, int64_t max_num_nodes);
// Little-endian words [num_nodes, words]: bit j of row i is set where node j is i or an ancestor of it.
std::string ancestor_masks(const std::vector<int64_t>& parents);
// Nodes followed from the root, the root left out: at each node to the child that holds the node's choice.
std::vector<int64_t> walk_tree(const std::vector<int64_t>& token_ids, const std::vector<int64_t>& parents,
                               const std::vector<int64_t>& choices);
// Throws std::invalid_argument that says what is malformed.
void validate_tree(const std::vector<int64_t>& token_ids, const std::vector<int64_t>& parents, int64_t vocab_size,
                   int64_t max_num_nodes);

}  // namespace specgrove
