// How an attention tile goes over its keys: by segments, chunks and rows, whatever the form of the arithmetic.
//
// Compiled once per instruction set and form, so no std containers or algorithms here: an out-of-line copy of them,
// made with these files' instructions, could be the one that the linker keeps for all files.
#pragma once

#include <limits>

#include "attention.h"
#include "prefetch.h"
#include "simd.h"

namespace specgrove {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t round_up_to(int64_t multiple, int64_t value) { return (value + multiple - 1) / multiple * multiple; }

// The places of a chunk that a row sees: from begin to end.
struct Seen {
  int64_t begin, end;

  bool any() const { return end > begin; }
  bool operator==(const Seen& other) const { return begin == other.begin && end == other.end; }
};

// The first position that a row sees.
inline int64_t first_seen(const AttentionTile& tile, int64_t row) {
  return most(0, tile.rows[row].num_keys() - tile.window);
}

inline Seen places_seen(const AttentionTile& tile, int64_t row, int64_t start) {
  return {most(0, first_seen(tile, row) - start), least(tile.rows[row].num_keys() - start, kKeyChunk)};
}

// The context that rows see of the chunk at start where they see nothing else of it.
inline Seen places_shared(const AttentionTile& tile, int64_t start) {
  Seen shared{kKeyChunk, 0};
  for (int64_t row = 0; row < tile.num_rows; ++row) {
    const Seen seen = places_seen(tile, row, start);
    if (!seen.any() || seen.end > tile.rows[row].context_len - start) continue;
    shared = {least(shared.begin, seen.begin), most(shared.end, seen.end)};
  }
  return shared;
}

// A slot for every place of a chunk. Places that are not seen repeat the next one that is: they are read, and count for
// nothing.
struct ChunkSlots {
  int32_t at[kKeyChunk];
};
template <typename SlotOf>
inline ChunkSlots slots_at(Seen places, const SlotOf& slot_of) {
  ChunkSlots slots;
  for (int64_t i = 0; i < kKeyChunk; ++i) slots.at[i] = slot_of(least(most(i, places.begin), places.end - 1));
  return slots;
}

constexpr int32_t kNoSlot = -1;  // at all places of a chunk that holds nothing
inline void hold_nothing(ChunkSlots& held) {
  for (int32_t& slot : held.at) slot = kNoSlot;
}

constexpr int64_t kMaxSinglePlaces = 4;  // more are faster loaded with all others

// A chunk that may hold most of a row's keys already: nodes of a tree share their ancestors. Calls load_all(), or
// load_place(i) for what is missing.
template <typename LoadAll, typename LoadPlace>
inline void load_missing(const ChunkSlots& slots, Seen seen, ChunkSlots& held, const LoadAll& load_all,
                         const LoadPlace& load_place) {
  int64_t num_missing = 0;
  for (int64_t i = seen.begin; i < seen.end; ++i) num_missing += held.at[i] != slots.at[i];
  if (num_missing > kMaxSinglePlaces || held.at[0] == kNoSlot) {
    load_all();
    held = slots;
    return;
  }
  for (int64_t i = seen.begin; num_missing > 0 && i < seen.end; ++i) {
    if (held.at[i] == slots.at[i]) continue;
    load_place(i);
    held.at[i] = slots.at[i];
    --num_missing;
  }
}

// Fetches a chunk's keys and values into the caches before it is loaded, a few lines at a time between other work: only
// so many lines can be on their way to a core, and one that asks for more stands still.
class ChunkFetch {
 public:
  ChunkFetch(const AttentionTile& tile, int64_t element_bytes)
      : keys_(static_cast<const char*>(tile.k_cache)),
        values_(static_cast<const char*>(tile.v_cache)),
        slot_bytes_(tile.slot_stride * element_bytes),
        num_bytes_(tile.head_dim * element_bytes) {}

  void begin(const int32_t* slots, int64_t num_slots) {
    slot_ = slots;
    end_ = slots + most(num_slots, 0);
    byte_ = 0;
  }

  // So many lines of keys, and as many of values.
  void some(int64_t num_lines) {
    for (; num_lines > 0 && slot_ < end_; --num_lines) {
      const int64_t place = *slot_ * slot_bytes_ + byte_;
      prefetch(keys_ + place);
      prefetch(values_ + place);
      byte_ += kCacheLine;
      if (byte_ < num_bytes_) continue;
      byte_ = 0;
      ++slot_;
    }
  }

  void rest() { some(kKeyChunk * num_lines()); }

  int64_t num_lines() const { return (num_bytes_ + kCacheLine - 1) / kCacheLine; }  // of one key

 private:
  const char *keys_, *values_;
  int64_t slot_bytes_, num_bytes_, byte_ = 0;
  const int32_t *slot_ = nullptr, *end_ = nullptr;
};

// Where a tile's segments lie: keys from first_start to end.
struct KeyRange {
  int64_t first_start, end;
};
inline KeyRange key_range_of(const AttentionTile& tile) {
  int64_t earliest = first_seen(tile, 0), longest = 0;
  for (int64_t row = 0; row < tile.num_rows; ++row) {
    earliest = least(earliest, first_seen(tile, row));
    longest = most(longest, tile.rows[row].num_keys());
  }
  return {most(earliest, tile.begin) / kKeyChunk * kKeyChunk, least(longest, tile.end)};
}

// What a form of the arithmetic has:
//   fetch                 the next chunk's; what the form doesn't ask of it is fetched before that chunk is loaded
//   begin_segment(), end_segment()
//   load_shared(slots, places)   a chunk for many rows, of which they see no other places
//   may_share()           whether a row that sees less than the shared places may use them
//   attend_shared(first_row, num_rows, start)
//   attend_own(row, slots, seen, start)   with a chunk of its own
template <typename Form>
void walk_keys(const AttentionTile& tile, Form& form) {
  const KeyRange keys = key_range_of(tile);
  const AttentionRow* const rows = tile.rows;
  const auto begin_fetch = [&](int64_t start) {  // rows of a tile share one context
    form.fetch.rest();
    form.fetch.begin(rows[0].context + start, least(rows[0].context_len - start, kKeyChunk));
  };
  if (keys.first_start < keys.end) begin_fetch(keys.first_start);
  form.begin_segment();
  for (int64_t start = keys.first_start; start < keys.end; start += kKeyChunk) {
    begin_fetch(start + kKeyChunk);
    if (start % kSegmentKeys == 0 && start > keys.first_start) {
      form.end_segment();
      form.begin_segment();
    }
    const Seen shared = places_shared(tile, start);
    if (shared.any()) form.load_shared(slots_at(shared, [&](int64_t i) { return rows[0].context[start + i]; }), shared);
    int64_t num_waiting = 0;  // rows before this one that share the chunk
    for (int64_t row = 0; row < tile.num_rows; ++row) {
      const Seen seen = places_seen(tile, row, start);
      const int64_t left = rows[row].context_len - start;
      if (seen.any() && seen.end <= left && (seen == shared || form.may_share())) {
        ++num_waiting;
        continue;
      }
      form.attend_shared(row - num_waiting, num_waiting, start);
      num_waiting = 0;
      if (!seen.any()) continue;
      const auto slot_of = [&](int64_t i) {
        return i < left ? rows[row].context[start + i] : rows[row].path[i - left];
      };
      form.attend_own(row, slots_at(seen, slot_of), seen, start);
    }
    form.attend_shared(tile.num_rows - num_waiting, num_waiting, start);
  }
  form.end_segment();
}

// What is known of a query after some segments: sums of values, then maximum and total of its weights. A form's kShrink
// is the factor for a maximum that is larger by so much.
inline void know_nothing(float* known, int64_t padded) {
  for (int64_t d = 0; d < padded; ++d) known[d] = 0.0f;
  known[padded] = -std::numeric_limits<float>::infinity();
  known[padded + 1] = 0.0f;
}

// Puts what a further segment found to what is known; nothing where the query sees none of its keys.
template <float (*kShrink)(float)>
inline void merge_segment(float* known, const float* sums, float maximum, float total, int64_t padded) {
  if (total == 0.0f) return;
  float *known_maximum = known + padded, *known_total = known + padded + 1;
  const float larger = maximum > *known_maximum ? maximum : *known_maximum;
  const float known_shrink = kShrink(*known_maximum - larger), shrink = kShrink(maximum - larger);
  for (int64_t d = 0; d < padded; d += kVec) {
    store(known + d, fma(load(sums + d), set1(shrink), mul(load(known + d), set1(known_shrink))));
  }
  *known_total = *known_total * known_shrink + total * shrink;
  *known_maximum = larger;
}

inline void write_out(const float* known, int64_t dim, int64_t padded, float* out) {
  const float inverse = 1.0f / known[padded + 1];
  for (int64_t d = 0; d < dim; ++d) out[d] = known[d] * inverse;
}

template <float (*kShrink)(float)>
void merge_partials(const AttentionMerge& merge) {
  const int64_t padded = round_up_to(kVec, merge.head_dim);
  know_nothing(merge.merged, padded);
  for (int64_t segment = 0; segment < merge.num_segments; ++segment) {
    const float* partial = merge.partials + segment * merge.segment_stride;
    merge_segment<kShrink>(merge.merged, partial, partial[padded], partial[padded + 1], padded);
  }
  write_out(merge.merged, merge.head_dim, padded, merge.out);
}

// A tile's results, from what is known of its queries in the end, to where the tile wants them.
inline void write_results(const AttentionTile& tile, const float* known) {
  const int64_t padded = round_up_to(kVec, tile.head_dim), stride = padded + 2, group = tile.num_heads;
  for (int64_t q = 0; q < tile.num_rows * group; ++q) {
    const float* const result = known + q * stride;
    if (tile.partials == nullptr) {
      write_out(result, tile.head_dim, padded, tile.out + q / group * tile.row_stride + q % group * tile.head_dim);
      continue;
    }
    float* const partial = tile.partials + q / group * tile.partial_row_stride + q % group * stride;
    for (int64_t i = 0; i < stride; ++i) partial[i] = result[i];
  }
}

}  // namespace
}  // namespace specgrove
