#include "attention.h"

#include <vector>

#include "isa.h"
#include "thread_pool.h"

namespace specgrove {
namespace {

// The slots of a row's keys by position.
void collect_slots(const TreeAttention& call, int64_t row, std::vector<int32_t>* slots) {
  const int32_t sequence = call.row_seq[row];
  const int32_t* context = call.context_slots + call.context_offsets[sequence];
  slots->assign(context, context + call.row_context_len[row]);
  const int32_t* nodes = call.tree_slots + call.tree_offsets[sequence];
  for (int64_t word = 0; word < call.num_mask_words; ++word) {
    for (uint64_t bits = call.row_masks[row * call.num_mask_words + word]; bits != 0; bits &= bits - 1) {
      slots->push_back(nodes[word * 64 + __builtin_ctzll(bits)]);
    }
  }
}

}  // namespace

void tree_attention(const TreeAttention& call) {
  const auto run_task = current_isa() == Isa::kAvx512 ? attention_task_avx512 : attention_task_plain;
  const int64_t group_size = call.num_heads / call.num_kv_heads, dim = call.head_dim;
  ThreadPool::instance().run(call.num_rows * call.num_kv_heads, [&](int64_t index) {
    const int64_t row = index / call.num_kv_heads, kv_head = index % call.num_kv_heads;
    thread_local std::vector<int32_t> slots;
    collect_slots(call, row, &slots);
    const int64_t first_head = row * call.num_heads + kv_head * group_size;
    const int64_t cache_offset = kv_head * dim * size_of(call.dtype);
    run_task({call.queries + first_head * dim, static_cast<const char*>(call.k_cache) + cache_offset,
              static_cast<const char*>(call.v_cache) + cache_offset, call.dtype, call.num_kv_heads * dim, slots.data(),
              static_cast<int64_t>(slots.size()), group_size, dim, call.scale,
              call.alibi_slopes == nullptr ? nullptr : call.alibi_slopes + kv_head * group_size,
              call.out + first_head * dim});
  });
}

}  // namespace specgrove
