// Which keys the rows of a forward pass see, cut into pieces of work for the kernel. Made on the host once per pass,
// used by all layers.
//
// Everything that a row sums goes by the position of its keys, so that its bits depend on nothing else. Positions are
// cut into blocks of kBlockKeys, blocks go into splits of kSplitBlocks, and splits into spans of kSpanSplits: a span's
// splits are put together in their order, then kSpanSplits spans in theirs, and so on upwards. Whoever does it gets the
// same bits, so a piece of work is a split where there are few, and a span where there are enough for all processors:
// that leaves less behind. Rows of one sequence that stand in one tile share the keys that are loaded. In the context
// they see the same key at a position; in a tree each row sees its own ancestors. So a block has one pass for all rows
// that see the same keys in it, or the first of them: a list of slots, one for each position, and the set of those
// rows.
#pragma once

#include <cstdint>
#include <vector>

namespace specgrove::cuda {

constexpr int kBlockKeys = 64;
constexpr int kSplitBlocks = 4;
constexpr int kSpanSplits = 8;
constexpr int kTileQueries = 128;  // rows of a tile times query heads of a KV head, at most
constexpr int kRowWords = kTileQueries / 32;
constexpr int kMaxSplitTurns = 3;  // turns of all processors after which a piece of work is a span

// As in specgrove.kernels.rows.PassRows.
struct AttentionRows {
  const int32_t* context_slots;
  const int32_t* context_offsets;  // [num_seqs + 1]
  const int32_t* tree_slots;
  const int32_t* tree_offsets;  // [num_seqs + 1]
  const int32_t* row_seq;
  const int32_t* row_context_len;
  const uint64_t* row_masks;  // [num_rows, num_mask_words]
  int64_t num_seqs, num_rows, num_mask_words;
};

// The parts of a plan's buffer start at these offsets from its beginning, in int32 numbers.
struct PlanHeader {
  int32_t num_items, num_tiles;
  int32_t splits_per_item;  // 1 or kSpanSplits
  int32_t items, tiles, passes, rows, lengths, slots;
};
// A tile's share of one split or span.
struct PlanItem {
  int32_t tile, first_split, first_pass, num_passes;
};
struct PlanTile {
  int32_t first_row;  // in rows and lengths
  int32_t num_rows, num_splits, first_item;
};
struct PlanPass {
  int32_t first_position, num_keys, first_slot;
  int32_t shortest;          // of the lengths of its rows
  uint32_t rows[kRowWords];  // a bit for each row of the tile
};

// What there is room for: int32 numbers of the plan, and items of tiles with more than one split, which leave partial
// results.
struct PlanRoom {
  int64_t num_numbers, num_split_items;
};

// For num_processors that take an item for one of num_kv_heads at a time. Items of tiles with more than one split come
// first. Throws std::invalid_argument for rows that don't fit together, or for which there is no room.
std::vector<int32_t> attention_plan(const AttentionRows& rows, int64_t group_size, int64_t num_kv_heads,
                                    int64_t num_processors, const PlanRoom& room);

}  // namespace specgrove::cuda
