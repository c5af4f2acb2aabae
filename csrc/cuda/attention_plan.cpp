#include "attention_plan.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

namespace specgrove::cuda {
namespace {

// Where all processors take more turns than that, an idle one in the last turn costs little.
constexpr int64_t kBusyPercent = 85;

using Slots = std::vector<int32_t>;

// A row's keys: the first context_len slots of its sequence's context, then its ancestors and itself.
struct Row {
  int32_t number, seq, context_len;
  Slots path;

  int32_t length() const { return context_len + static_cast<int32_t>(path.size()); }
};

std::vector<Row> all_rows(const AttentionRows& rows) {
  std::vector<Row> found(rows.num_rows);
  for (int64_t r = 0; r < rows.num_rows; ++r) {
    Row& row = found[r];
    row.number = static_cast<int32_t>(r);
    row.seq = rows.row_seq[r];
    row.context_len = rows.row_context_len[r];
    if (row.seq < 0 || row.seq >= rows.num_seqs) throw std::invalid_argument("a row's sequence is out of range");
    const int32_t context_len = rows.context_offsets[row.seq + 1] - rows.context_offsets[row.seq];
    if (row.context_len < 0 || row.context_len > context_len) {
      throw std::invalid_argument("a row's context is longer than its sequence's");
    }
    const int32_t first_node = rows.tree_offsets[row.seq], num_nodes = rows.tree_offsets[row.seq + 1] - first_node;
    for (int64_t word = 0; word < rows.num_mask_words; ++word) {
      for (uint64_t bits = rows.row_masks[r * rows.num_mask_words + word]; bits != 0; bits &= bits - 1) {
        const auto node = static_cast<int32_t>(64 * word + __builtin_ctzll(bits));
        if (node >= num_nodes) throw std::invalid_argument("a row's mask names a node that its tree doesn't have");
        row.path.push_back(rows.tree_slots[first_node + node]);
      }
    }
    if (row.length() == 0) throw std::invalid_argument("a row sees no key");
  }
  return found;
}

void check_room(const char* what, int64_t num_needed, int64_t room) {
  if (num_needed <= room) return;
  throw std::invalid_argument("the pass's attention plan has " + std::to_string(num_needed) + " " + what +
                              ", and room for " + std::to_string(room));
}

class Planner {
 public:
  Planner(const AttentionRows& rows, int64_t group_size, int64_t num_kv_heads, int64_t num_processors)
      : rows_(rows),
        max_tile_rows_(static_cast<size_t>(kTileQueries / group_size)),
        num_kv_heads_(num_kv_heads),
        num_processors_(num_processors) {
    const int32_t num_context_slots = rows.context_offsets[rows.num_seqs];
    slots_.assign(rows.context_slots, rows.context_slots + num_context_slots);
  }

  std::vector<int32_t> plan() {
    std::vector<Row> rows = all_rows(rows_);
    // Rows that see much of the same stand side by side: a tree's in depth-first order.
    std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
      if (a.seq != b.seq) return a.seq < b.seq;
      if (a.context_len != b.context_len) return a.context_len < b.context_len;
      return a.path < b.path;
    });
    for (size_t start = 0; start < rows.size();) {
      size_t end = start + 1;
      while (end < rows.size() && end - start < max_tile_rows_ && rows[end].seq == rows[start].seq) ++end;
      add_tile(rows.data() + start, static_cast<int32_t>(end - start));
      start = end;
    }
    sort_items();
    return buffer();
  }

  int64_t num_split_items() const {
    return std::count_if(items_.begin(), items_.end(),
                         [this](const PlanItem& item) { return tiles_[item.tile].num_splits > 1; });
  }

 private:
  // Whether spans keep all processors busy: where there are few, those of the last turn may be idle.
  bool has_enough_spans() const {
    int64_t num_spans = 0;
    for (const PlanTile& tile : tiles_) num_spans += (tile.num_splits + kSpanSplits - 1) / kSpanSplits;
    const int64_t num_pieces = num_spans * num_kv_heads_;
    const int64_t num_turns = (num_pieces + num_processors_ - 1) / num_processors_;
    return num_turns > kMaxSplitTurns || num_pieces * 100 >= num_turns * num_processors_ * kBusyPercent;
  }

  // Splits become items, or spans of them do. Those of tiles with many come first: what leaves no partial results then
  // stands behind what does.
  void sort_items() {
    splits_per_item_ = has_enough_spans() ? kSpanSplits : 1;
    std::vector<int32_t> order(tiles_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [this](int32_t a, int32_t b) { return tiles_[a].num_splits > tiles_[b].num_splits; });
    std::vector<PlanItem> items;
    items.reserve(items_.size());
    for (const int32_t number : order) {
      PlanTile& tile = tiles_[number];
      const int32_t first_split = tile.first_item;
      tile.first_item = static_cast<int32_t>(items.size());
      for (int32_t split = 0; split < tile.num_splits; ++split) {
        const PlanItem& part = items_[first_split + split];
        if (split % splits_per_item_ == 0) {
          items.push_back(part);
        } else {
          items.back().num_passes += part.num_passes;
        }
      }
    }
    items_ = std::move(items);
  }

  void add_tile(const Row* rows, int32_t num_rows) {
    int32_t longest = 0, shared = rows[0].context_len;
    for (int32_t i = 0; i < num_rows; ++i) {
      tile_rows_.push_back(rows[i].number);
      lengths_.push_back(rows[i].length());
      longest = std::max(longest, rows[i].length());
      shared = std::min(shared, rows[i].context_len);
    }
    const int32_t num_blocks = (longest + kBlockKeys - 1) / kBlockKeys;
    const int32_t num_splits = (num_blocks + kSplitBlocks - 1) / kSplitBlocks;
    const auto tile = static_cast<int32_t>(tiles_.size());
    tiles_.push_back({static_cast<int32_t>(tile_rows_.size()) - num_rows, num_rows, num_splits,
                      static_cast<int32_t>(items_.size())});
    for (int32_t split = 0; split < num_splits; ++split) {
      const auto first_pass = static_cast<int32_t>(passes_.size());
      const int32_t end = std::min(num_blocks, (split + 1) * kSplitBlocks);
      for (int32_t block = split * kSplitBlocks; block < end; ++block) {
        if ((block + 1) * kBlockKeys <= shared) {
          add_context_pass(rows, num_rows, block * kBlockKeys);
        } else {
          add_passes(rows, num_rows, block * kBlockKeys);
        }
      }
      items_.push_back({tile, split, first_pass, static_cast<int32_t>(passes_.size()) - first_pass});
    }
  }

  // All rows see all keys of the block, and all are of the context.
  void add_context_pass(const Row* rows, int32_t num_rows, int32_t first_position) {
    PlanPass pass{
        first_position, kBlockKeys, rows_.context_offsets[rows[0].seq] + first_position, rows[0].length(), {}};
    for (int32_t i = 0; i < num_rows; ++i) take_row(rows[i], i, &pass);
    passes_.push_back(pass);
  }

  void add_passes(const Row* rows, int32_t num_rows, int32_t first_position) {
    Slots keys;
    PlanPass pass{};
    for (int32_t i = 0; i < num_rows; ++i) {
      const Slots own = keys_of(rows[i], first_position);
      if (own.empty()) continue;
      const size_t common = std::min(keys.size(), own.size());
      if (!keys.empty() && std::equal(own.begin(), own.begin() + static_cast<int64_t>(common), keys.begin())) {
        if (own.size() > keys.size()) keys = own;
      } else {
        end_pass(keys, &pass);
        pass = {first_position, 0, 0, rows[i].length(), {}};
        keys = own;
      }
      take_row(rows[i], i, &pass);
    }
    end_pass(keys, &pass);
  }

  static void take_row(const Row& row, int32_t place, PlanPass* pass) {
    pass->rows[place / 32] |= 1u << place % 32;
    pass->shortest = std::min(pass->shortest, row.length());
  }

  void end_pass(const Slots& keys, PlanPass* pass) {
    if (keys.empty()) return;
    pass->num_keys = static_cast<int32_t>(keys.size());
    pass->first_slot = static_cast<int32_t>(slots_.size());
    slots_.insert(slots_.end(), keys.begin(), keys.end());
    passes_.push_back(*pass);
  }

  Slots keys_of(const Row& row, int32_t first_position) const {
    Slots keys;
    const int32_t* const context = rows_.context_slots + rows_.context_offsets[row.seq];
    const int32_t end = std::min(row.length(), first_position + kBlockKeys);
    for (int32_t position = first_position; position < end; ++position) {
      keys.push_back(position < row.context_len ? context[position] : row.path[position - row.context_len]);
    }
    return keys;
  }

  std::vector<int32_t> buffer() const {
    std::vector<int32_t> out(sizeof(PlanHeader) / sizeof(int32_t));
    const auto put = [&out](const auto& values) {
      const size_t num_bytes = values.size() * sizeof(values[0]), start = out.size();
      out.resize(start + num_bytes / sizeof(int32_t));
      std::memcpy(out.data() + start, values.data(), num_bytes);
      return static_cast<int32_t>(start);
    };
    PlanHeader header{};
    header.num_items = static_cast<int32_t>(items_.size());
    header.num_tiles = static_cast<int32_t>(tiles_.size());
    header.splits_per_item = splits_per_item_;
    header.items = put(items_);
    header.tiles = put(tiles_);
    header.passes = put(passes_);
    header.rows = put(tile_rows_);
    header.lengths = put(lengths_);
    header.slots = put(slots_);
    std::memcpy(out.data(), &header, sizeof header);
    return out;
  }

  const AttentionRows& rows_;
  const size_t max_tile_rows_;
  const int64_t num_kv_heads_, num_processors_;
  int32_t splits_per_item_ = 1;
  std::vector<PlanItem> items_;
  std::vector<PlanTile> tiles_;
  std::vector<PlanPass> passes_;
  std::vector<int32_t> tile_rows_, lengths_, slots_;
};

}  // namespace

std::vector<int32_t> attention_plan(const AttentionRows& rows, int64_t group_size, int64_t num_kv_heads,
                                    int64_t num_processors, const PlanRoom& room) {
  if (group_size < 1 || group_size > kTileQueries) {
    throw std::invalid_argument("a KV head serves 1 to 128 query heads");
  }
  Planner planner(rows, group_size, num_kv_heads, num_processors);
  std::vector<int32_t> plan = planner.plan();
  check_room("int32 numbers", static_cast<int64_t>(plan.size()), room.num_numbers);
  check_room("items that leave partial results", planner.num_split_items(), room.num_split_items);
  return plan;
}

}  // namespace specgrove::cuda
