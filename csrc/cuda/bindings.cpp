// specgrove.kernels._cuda, and the same for the emulator: tensors cross as addresses, which specgrove/kernels/cuda
// checks, and the stream as the number that torch gives. No call waits for the device.
// Named arguments: two addresses or sizes that change places would go unnoticed.
#include "bindings.h"

#include <cstring>
#include <string>
#include <vector>

#include "../cpu/number_types.h"
#include "../named_fields.h"
#include "attention_plan.h"
#include "choices.h"
#include "kernel.h"
#include "top_k.h"
#include "tree_attention.h"

namespace specgrove::cuda {

using py::arg;

namespace {

// Kernels of ops: fields are tensors and numbers, see kernel.h.
void bind_launch(py::module_& module) {
  module.def("has_kernel", [](const std::string& kernel) { return Kernel::find(kernel) != nullptr; });
  module.def(
      "launch",
      [](const std::string& kernel, const NamedFields& fields, Stream stream) {
        const FieldsLauncher launcher = Kernel::find(kernel);
        if (launcher == nullptr) throw std::invalid_argument("there is no kernel for GPUs called " + kernel);
        OpFields named(kernel, fields);
        launcher(named, stream);
        named.check_all_read();
      },
      NoGil(), arg("kernel"), arg("fields"), arg("stream"));
}

void bind_choices(py::module_& module) {
  module.def(
      "take_choices",
      [](Address token_ids, int64_t num_rows, Address choices, Stream stream) {
        take_choices(at<int32_t>(token_ids), num_rows, at<int64_t>(choices), stream);
      },
      NoGil(), py::kw_only(), arg("token_ids"), arg("num_rows"), arg("choices"), arg("stream"));
  module.def(
      "choose",
      [](Address logits, Address temperatures, Address seeds, Address positions, int64_t num_rows, int64_t vocab_size,
         Address out, Stream stream) {
        choose({at<float>(logits), at<float>(temperatures), at<uint64_t>(seeds), at<uint64_t>(positions), num_rows,
                vocab_size, at<int64_t>(out)},
               stream);
      },
      NoGil(), py::kw_only(), arg("logits"), arg("temperatures"), arg("seeds"), arg("positions"), arg("num_rows"),
      arg("vocab_size"), arg("out"), arg("stream"));
  module.def(
      "top_k_log_probs",
      [](Address logits, int64_t num_rows, int64_t vocab_size, int64_t k, Address log_probs, Address token_ids,
         Stream stream) {
        top_k_log_probs({at<float>(logits), num_rows, vocab_size, k, at<float>(log_probs), at<int32_t>(token_ids)},
                        stream);
      },
      NoGil(), py::kw_only(), arg("logits"), arg("num_rows"), arg("vocab_size"), arg("k"), arg("log_probs"),
      arg("token_ids"), arg("stream"));
}

void bind_attention(py::module_& module) {
  // To out, which has room for num_numbers; how many there are.
  module.def(
      "attention_plan",
      [](Address context_slots, Address context_offsets, Address tree_slots, Address tree_offsets, int64_t num_seqs,
         Address row_seq, Address row_context_len, Address row_masks, int64_t num_rows, int64_t num_mask_words,
         int64_t group_size, int64_t num_kv_heads, int64_t num_processors, Address out, int64_t num_numbers,
         int64_t num_split_items) {
        const AttentionRows rows{at<int32_t>(context_slots),
                                 at<int32_t>(context_offsets),
                                 at<int32_t>(tree_slots),
                                 at<int32_t>(tree_offsets),
                                 at<int32_t>(row_seq),
                                 at<int32_t>(row_context_len),
                                 at<uint64_t>(row_masks),
                                 num_seqs,
                                 num_rows,
                                 num_mask_words};
        const std::vector<int32_t> plan =
            attention_plan(rows, group_size, num_kv_heads, num_processors, {num_numbers, num_split_items});
        std::memcpy(at<int32_t>(out), plan.data(), plan.size() * sizeof(int32_t));
        return plan.size();
      },
      NoGil(), arg("context_slots"), arg("context_offsets"), arg("tree_slots"), arg("tree_offsets"), arg("num_seqs"),
      arg("row_seq"), arg("row_context_len"), arg("row_masks"), arg("num_rows"), arg("num_mask_words"), py::kw_only(),
      arg("group_size"), arg("num_kv_heads"), arg("num_processors"), arg("out"), arg("num_numbers"),
      arg("num_split_items"));
  module.def("attention_partials", &attention_partials);
  module.def("max_shared_bytes", &max_shared_bytes);
  module.def(
      "tree_attention",
      [](Address queries, Address k_cache, Address v_cache, DType dtype, Address out, Address plan, Address partials,
         Address arrived, Address alibi_slopes, float scale, float soft_cap, int32_t window, int32_t num_heads,
         int32_t num_kv_heads, int64_t head_dim, int64_t num_blocks, int64_t num_rows, int64_t max_shared_bytes,
         Stream stream) {
        tree_attention({at<void>(queries), at<void>(k_cache), at<void>(v_cache), at<void>(out), at<int32_t>(plan),
                        at<float>(partials), at<uint32_t>(arrived), at<float>(alibi_slopes), scale, soft_cap, window,
                        num_heads, num_kv_heads},
                       head_dim, dtype, {num_blocks, num_rows, max_shared_bytes}, stream);
      },
      NoGil(), py::kw_only(), arg("queries"), arg("k_cache"), arg("v_cache"), arg("dtype"), arg("out"), arg("plan"),
      arg("partials"), arg("arrived"), arg("alibi_slopes"), arg("scale"), arg("soft_cap"), arg("window"),
      arg("num_heads"), arg("num_kv_heads"), arg("head_dim"), arg("num_blocks"), arg("num_rows"),
      arg("max_shared_bytes"), arg("stream"));
}

}  // namespace
}  // namespace specgrove::cuda

PYBIND11_MODULE(SPECGROVE_CUDA_MODULE, module) {
  namespace py = pybind11;
  py::enum_<specgrove::DType>(module, "DType", py::module_local())
      .value("float32", specgrove::DType::kFloat32)
      .value("bfloat16", specgrove::DType::kBFloat16)
      .value("float16", specgrove::DType::kFloat16);
  module.def("architectures", [] { return std::string(SPECGROVE_CUDA_ARCHITECTURES); });
  specgrove::cuda::bind_constants(module);
  specgrove::cuda::bind_attention(module);
  specgrove::cuda::bind_choices(module);
  specgrove::cuda::bind_launch(module);
  specgrove::cuda::bind_linear(module);
}
