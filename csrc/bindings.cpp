// specgrove.kernels._native: the kernels for Python. Tensors cross as addresses; the wrappers in specgrove/kernels
// check shapes and types and keep the tensors alive. Everything that computes releases the GIL.
#include "bindings.h"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/amx_access.h"
#include "cpu/attention.h"
#include "cpu/bfloat16_rows.h"
#include "cpu/candidates.h"
#include "cpu/counted_linear.h"
#include "cpu/isa.h"
#include "cpu/linear.h"
#include "cpu/memory_reader.h"
#include "cpu/noise.h"
#include "cpu/quantized_linear.h"
#include "cpu/sampling.h"
#include "cpu/thread_pool.h"
#include "cpu/tile_product.h"
#include "cpu/trees.h"
#include "cpu/turn_watch.h"

using namespace specgrove;

namespace {

void bind_settings(py::module_& module) {
  module.def("set_num_threads", [](int count) { ThreadPool::instance().set_num_threads(count); }, NoGil());
  module.def("get_num_threads", [] { return ThreadPool::instance().num_threads(); });
  module.def("set_isa", &set_isa);
  module.def("get_isa", &current_isa_name);
  module.def("amx_refusal", &amx_refusal);
  module.def(
      "amx_refusal_of",
      [](bool is_in_processor, bool is_enabled, bool has_avx512, int request_error) {
        return refusal_of({is_in_processor, is_enabled, has_avx512, request_error});
      },
      py::kw_only(), py::arg("is_in_processor"), py::arg("is_enabled"), py::arg("has_avx512"),
      py::arg("request_error"));
  module.def("build_info", [] { return std::string(SPECGROVE_BUILD_INFO); });
  py::class_<MemoryReader>(module, "MemoryReader").def(py::init<int64_t>()).def("read", &MemoryReader::read, NoGil());
  py::enum_<DType>(module, "DType")
      .value("float32", DType::kFloat32)
      .value("bfloat16", DType::kBFloat16)
      .value("float16", DType::kFloat16);
}

void bind_layers(py::module_& module) {
  module.attr("MAX_HEAD_DIM") = kMaxHeadDim;
  py::class_<AnyLinear>(module, "AnyLinear");
  py::class_<CountedLinear, AnyLinear>(module, "CountedLinear")
      .def(py::init<const AnyLinear*>(), py::keep_alive<1, 2>())
      .def_property_readonly("num_rows", &CountedLinear::num_rows);
  py::class_<PackedLinear, AnyLinear>(module, "PackedLinear")
      .def(py::init([](Address weight, DType dtype, Address bias, int64_t out_features, int64_t in_features) {
        const py::gil_scoped_release no_gil;
        return std::make_unique<PackedLinear>(at<void>(weight), dtype, at<float>(bias), out_features, in_features);
      }))
      .def(
          "forward",
          [](const PackedLinear& linear, Address x, int64_t num_rows, Address out) {
            linear.forward(at<float>(x), num_rows, at<float>(out));
          },
          NoGil())
      .def_static(
          "from_packed",
          [](Address packed, DType dtype, Address bias, int64_t out_features, int64_t in_features) {
            const int64_t num_bytes = PackedLinear::packed_nbytes(dtype, out_features, in_features);
            return std::make_unique<PackedLinear>(PackedBytes(at<void>(packed), num_bytes), dtype, at<float>(bias),
                                                  out_features, in_features);
          },
          NoGil())
      .def_static("packed_nbytes", &PackedLinear::packed_nbytes)
      .def(
          "copy_packed", [](const PackedLinear& linear, Address out) { linear.copy_packed(at<void>(out)); }, NoGil())
      .def_property_readonly("nbytes", &PackedLinear::nbytes);
  py::class_<AttentionPlan>(module, "AttentionPlan")
      .def(py::init([](Address context_slots, int64_t num_context_slots, Address context_offsets, Address tree_slots,
                       int64_t num_tree_slots, Address tree_offsets, int64_t num_seqs, Address row_seq,
                       Address row_context_len, Address row_masks, int64_t num_rows, int64_t num_mask_words) {
        const py::gil_scoped_release no_gil;
        return std::make_unique<AttentionPlan>(AttentionPlan::Arrays{
            at<int32_t>(context_slots), num_context_slots, at<int32_t>(context_offsets), at<int32_t>(tree_slots),
            num_tree_slots, at<int32_t>(tree_offsets), num_seqs, at<int32_t>(row_seq), at<int32_t>(row_context_len),
            at<uint64_t>(row_masks), num_rows, num_mask_words});
      }));
}

void bind_quantized(py::module_& module) {
  py::class_<QuantizedShape>(module, "QuantizedShape")
      .def(py::init([](int bits, int64_t out_features, int64_t in_features, int64_t span_size, bool has_mins,
                       bool has_half_scales) {
        return QuantizedShape{bits, out_features, in_features, span_size, has_mins, has_half_scales};
      }))
      .def_property_readonly("nbytes", &QuantizedShape::nbytes);
  py::class_<QuantizedLinear, AnyLinear>(module, "QuantizedLinear")
      .def(py::init([](const QuantizedShape& shape, Address codes, Address scales, Address mins, Address bias) {
        const py::gil_scoped_release no_gil;
        return std::make_unique<QuantizedLinear>(shape, at<void>(codes), at<float>(scales), at<float>(mins),
                                                 at<float>(bias));
      }))
      .def_static(
          "from_packed",
          [](const QuantizedShape& shape, Address packed, Address bias) {
            return std::make_unique<QuantizedLinear>(shape, PackedBytes(at<void>(packed), shape.nbytes()),
                                                     at<float>(bias));
          },
          NoGil())
      .def(
          "forward",
          [](const QuantizedLinear& linear, Address x, int64_t num_rows, Address out) {
            linear.forward(at<float>(x), num_rows, at<float>(out));
          },
          NoGil())
      .def(
          "copy_packed", [](const QuantizedLinear& linear, Address out) { linear.copy_packed(at<void>(out)); }, NoGil())
      .def_property_readonly("nbytes", &QuantizedLinear::nbytes);
}

void bind_tiles(py::module_& module) {
  const auto bind = [&](const char* name, void (*multiply)(const TileProduct&)) {
    module.def(
        name,
        [multiply](Address a, Address b, Address c, int64_t num_rows, int64_t num_words, int64_t num_outputs) {
          multiply({at<void>(a), at<void>(b), at<void>(c), num_rows, num_words, num_outputs});
        },
        NoGil());
  };
  bind("tile_product_bf16", &tile_product_bf16);
  bind("tile_product_s8", &tile_product_s8);
}

void bind_sampling(py::module_& module) {
  py::class_<ChoiceParams>(module, "ChoiceParams")
      .def(py::init([](float temperature, int64_t top_k, float top_p, float min_p, float repetition_penalty,
                       float presence_penalty, float frequency_penalty, uint64_t seed) {
        return ChoiceParams{temperature,       top_p, min_p, repetition_penalty, presence_penalty,
                            frequency_penalty, top_k, seed};
      }));
  py::class_<ChoiceInput>(module, "ChoiceInput")
      .def(py::init([](Address logits, int64_t vocab_size, Address seen, int64_t num_seen, Address output,
                       Address counts, int64_t num_output, Address bias_ids, Address bias, int64_t num_bias,
                       Address banned, int64_t num_banned) {
        return ChoiceInput{at<float>(logits),   vocab_size, at<int64_t>(seen),     num_seen,        at<int64_t>(output),
                           at<int64_t>(counts), num_output, at<int64_t>(bias_ids), at<float>(bias), num_bias,
                           at<int64_t>(banned), num_banned};
      }));
  module.def(
      "gumbel_noise",
      [](uint64_t seed, uint64_t position, Address token_ids, int64_t count, Address out) {
        noise_of(seed, position, at<int64_t>(token_ids), count, at<float>(out));
      },
      NoGil());
  module.def("choose", &choose, NoGil());
  module.def("num_sorted_tokens", &num_sorted_tokens);
  module.def(
      "processed_log_probs",
      [](const ChoiceInput& input, const ChoiceParams& params, Address out) {
        processed_log_probs(input, params, at<float>(out));
      },
      NoGil());
  module.def(
      "greedy_choices",
      [](Address logits, int64_t num_rows, int64_t vocab_size, Address out) {
        for (int64_t row = 0; row < num_rows; ++row) {
          at<int32_t>(out)[row] = static_cast<int32_t>(argmax(at<float>(logits) + row * vocab_size, vocab_size));
        }
      },
      NoGil());
  module.def(
      "top_k_log_probs",
      [](Address logits, int64_t num_rows, int64_t vocab_size, int64_t k, Address values, Address token_ids) {
        ThreadPool::instance().run(num_rows, [&](int64_t row) {
          top_k_log_probs(at<float>(logits) + row * vocab_size, vocab_size, k, at<float>(values) + row * k,
                          at<int64_t>(token_ids) + row * k);
        });
      },
      NoGil());
  py::class_<CandidateRow>(module, "CandidateRow")
      .def(py::init([](uint64_t position, uint64_t seed, float temperature, int64_t top_k, float top_p, float scale) {
        return CandidateRow{position, seed, temperature, top_k, top_p, scale};
      }));
  module.def("best_candidates", [](Address token_ids, bool are_short, Address logits, int64_t num_candidates,
                                   Address log_sum_exp, const std::vector<CandidateRow>& rows, float noise_weight,
                                   int64_t k) {
    std::vector<float> log_probs(rows.size() * k);
    std::vector<int64_t> best_ids(rows.size() * k), widened;
    {
      const py::gil_scoped_release no_gil;
      const int64_t* ids = at<int64_t>(token_ids);
      if (are_short) {
        const int32_t* const given = at<int32_t>(token_ids);
        widened.assign(given, given + rows.size() * num_candidates);
        ids = widened.data();
      }
      for (size_t row = 0; row < rows.size(); ++row) {
        const Candidates candidates{ids + row * num_candidates, at<float>(logits) + row * num_candidates,
                                    num_candidates, at<float>(log_sum_exp)[row]};
        best_candidates(candidates, rows[row], noise_weight, k, log_probs.data() + row * k, best_ids.data() + row * k);
      }
    }
    std::vector<std::vector<std::pair<int64_t, float>>> found(rows.size());
    for (size_t row = 0; row < rows.size(); ++row) {
      for (size_t i = row * k; i < (row + 1) * k && best_ids[i] >= 0; ++i) {
        found[row].emplace_back(best_ids[i], log_probs[i]);
      }
    }
    return found;
  });
  module.def("bfloat16_rows",
             [](const std::vector<Address>& matrices, int64_t width, const std::vector<int64_t>& rows) {
               std::vector<const float*> parts;
               for (const Address matrix : matrices) parts.push_back(at<float>(matrix));
               const auto num_bytes = static_cast<py::ssize_t>(rows.size() * parts.size() * width * sizeof(BFloat16));
               py::bytes values = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, num_bytes));
               auto* const out = reinterpret_cast<BFloat16*>(PyBytes_AS_STRING(values.ptr()));
               {
                 const py::gil_scoped_release no_gil;
                 bfloat16_rows(parts, width, rows, out);
               }
               return values;
             });
  module.def(
      "log_sum_exp", [](Address logits, int64_t vocab_size) { return log_sum_exp(at<float>(logits), vocab_size); },
      NoGil());
}

void bind_turn_watch(py::module_& module) {
  py::class_<TurnWatch>(module, "TurnWatch")
      .def(py::init<double, int>(), py::arg("timeout_s"), py::arg("signal"))
      .def("beat", &TurnWatch::beat)
      .def("stop", &TurnWatch::stop, NoGil());
}

void bind_trees(py::module_& module) {
  using Arrays = std::tuple<std::vector<int64_t>, std::vector<int64_t>, std::vector<double>, std::vector<uint64_t>>;
  module.def("merge_trees", [](const std::vector<Arrays>& arrays, int64_t max_num_nodes) {
    std::vector<Tree> trees;
    for (const auto& [token_ids, parents, log_probs, sources] : arrays) {
      trees.push_back({token_ids, parents, log_probs, sources});
    }
    Tree merged = merge_trees(trees, max_num_nodes);
    return Arrays{merged.token_ids, merged.parents, merged.log_probs, merged.sources};
  });
  module.def("ancestor_masks", [](const std::vector<int64_t>& parents) { return py::bytes(ancestor_masks(parents)); });
  module.def("walk_tree", &walk_tree);
  module.def("validate_tree", &validate_tree);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "SpecGrove's native kernels. Use them through specgrove.kernels.";
  bind_settings(module);
  bind_layers(module);
  bind_quantized(module);
  bind_tiles(module);
  bind_program(module);
  bind_sampling(module);
  bind_trees(module);
  bind_turn_watch(module);
}
