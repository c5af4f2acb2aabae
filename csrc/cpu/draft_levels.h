// A draft in one call: the pass over committed tokens that were not read yet, then the levels of the tree, pass after
// pass of a program that goes on from its own states, with no Python between them.
//
// Which nodes a level expands is a guess of what DraftTree.grow (ssm_service/draft_tree.py) will expand, by the same
// rules: it decides, of what is found here. A wrong guess costs a pass, and changes no tree.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "candidates.h"
#include "number_types.h"
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

// Committed tokens that are read first, the last ones of the context; the root is the last of them.
struct ReadRows {
  Program* program;  // whose Input takes hidden states
  int64_t num_rows;
  const int64_t* token_ids;  // [num_rows]
  const BFloat16* hidden;    // [num_rows, hidden_size]
  int64_t hidden_size;
  CandidateRow choice;  // of the token after the root
  // What Shortlist finds of the root goes here: [num_candidates] twice, and [1].
  int32_t* places;
  float *logits, *log_sum_exp;
};

struct LevelDraft {
  const int32_t* context_slots;  // of the committed tokens that the nodes see
  int64_t context_len;
  int64_t first_position;    // of the root's children
  const ReadRows* read;      // null: all has been read
  float* root_state;         // [state_size]: the root's own, or where it goes if rows are read
  int64_t state_size;        // numbers of a state
  Proposals root_proposals;  // what may follow the root, where no rows are read
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

struct Drafted {
  Proposals root_proposals;  // none, and no nodes: its logits are no numbers
  std::vector<FoundNode> nodes;
};

// Whole levels; one in which a node proposes nothing, because its logits are no numbers, is left out.
Drafted draft_levels(Program& program, const LevelDraft& draft);

}  // namespace specgrove
