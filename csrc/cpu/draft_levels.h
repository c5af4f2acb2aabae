// The levels of one drafter's tree in one call: pass after pass of a program that goes on from its own states, with no
// Python between them.
//
// Which nodes a level expands is a guess of what DraftTree.grow (ssm_service/draft_tree.py) will expand, by the same
// rules: it decides, of what is found here. A wrong guess costs a pass, and changes no tree.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "candidates.h"
#include "program.h"

namespace specgrove {

// (token id, log-probability), most probable first.
using Proposals = std::vector<std::pair<int64_t, float>>;

// Of one depth, that of the root's children first.
struct DraftLevel {
  int64_t num_children;  // of each node that is expanded above; 0: the tree ends
  int64_t num_expanded;  // nodes of this depth, at most
  CandidateRow choice;   // of the token after such a node
};

struct LevelDraft {
  const int32_t* context_slots;  // of the committed tokens that the nodes see
  int64_t context_len;
  int64_t first_position;    // of the root's children
  const float* root_state;   // [state_size]
  int64_t state_size;        // numbers of a state
  Proposals root_proposals;  // what may follow the root
  std::vector<DraftLevel> levels;
  int64_t max_num_nodes;       // of the tree: below a node that is not among the best, none is
  double min_level_prob;       // a level is worth its time where the nodes above it have this probability together
  int64_t num_kept;            // proposals of a node
  float noise_weight;          // see best_candidates
  std::vector<int32_t> slots;  // where keys and values may go; a level that does not find enough is not drafted
  int64_t num_candidates;      // of Shortlist
  const int64_t* token_ids;    // of its places; null: they are ids
  int64_t vocab_size;          // of the embedding; a node of another id is fed id 0
  const KvCaches* caches;
  float* states;  // [slots, state_size]: those of the nodes found go here
};

// In the order of their slots.
struct FoundNode {
  int64_t parent;  // place among these; -1: the root
  int64_t token_id;
  double log_prob, score;  // score: of the path
  Proposals proposals;
};

// Whole levels; one in which a node proposes nothing, because its logits are no numbers, is left out.
std::vector<FoundNode> draft_levels(Program& program, const LevelDraft& draft);

}  // namespace specgrove
