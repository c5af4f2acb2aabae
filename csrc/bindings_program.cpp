// The program of a pass for Python. Ops come with named fields, and so do the rows of a pass: see program.h.
#include <memory>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "cpu/draft_levels.h"
#include "cpu/program.h"
#include "cpu/sampling.h"
#include "named_fields.h"

namespace specgrove {

using py::arg;

namespace {

// What one asked row is asked for; nothing: its logits.
using Choice = std::optional<std::tuple<ChoiceParams, uint64_t>>;

// Logits of one row stand behind those of the row before.
std::vector<AskedRow> asked_rows(const std::vector<Choice>& choices, float* logits, int64_t logits_width) {
  std::vector<AskedRow> asked;
  asked.reserve(choices.size());
  for (const Choice& choice : choices) {
    if (choice.has_value()) {
      const auto& [params, position] = *choice;
      asked.push_back({nullptr, params.temperature, params.seed, position});
    } else {
      asked.push_back({logits, 0.0f, 0, 0});
      logits += logits_width;
    }
  }
  return asked;
}

// Parent, token id and log-probability of a node, and what it proposes.
using FoundTuple = std::tuple<int64_t, int64_t, double, Proposals>;
using LevelTuple = std::tuple<int64_t, int64_t, CandidateRow>;

void bind_draft_levels(py::module_& module, py::class_<Program>& program_class) {
  py::class_<ReadRows>(module, "ReadRows")
      .def(py::init([](Program& program, int64_t num_rows, Address token_ids, const py::bytes& hidden,
                       CandidateRow choice, Address places, Address logits, Address log_sum_exp) {
             const std::string_view values(hidden);  // of the bytes, which the caller keeps
             return ReadRows{&program,
                             num_rows,
                             at<int64_t>(token_ids),
                             reinterpret_cast<const BFloat16*>(values.data()),
                             static_cast<int64_t>(values.size() / sizeof(BFloat16)) / num_rows,
                             choice,
                             at<int32_t>(places),
                             at<float>(logits),
                             at<float>(log_sum_exp)};
           }),
           py::kw_only(), arg("program"), arg("num_rows"), arg("token_ids"), arg("hidden"), arg("choice"),
           arg("places"), arg("logits"), arg("log_sum_exp"), py::keep_alive<1, 2>(), py::keep_alive<1, 5>());
  program_class.def(
      "draft_levels",
      [](Program& program, Address context_slots, int64_t context_len, int64_t first_position, const ReadRows* read,
         Address root_state, int64_t state_size, Proposals root_proposals, const std::vector<LevelTuple>& levels,
         int64_t max_num_nodes, double min_level_prob, int64_t num_kept, float noise_weight, std::vector<int32_t> slots,
         int64_t num_candidates, Address token_ids, int64_t vocab_size, const KvCaches& caches, Address states) {
        LevelDraft draft{};
        draft.context_slots = at<int32_t>(context_slots);
        draft.context_len = context_len;
        draft.first_position = first_position;
        draft.read = read;
        draft.root_state = at<float>(root_state);
        draft.state_size = state_size;
        draft.root_proposals = std::move(root_proposals);
        for (const auto& [num_children, num_expanded, choice] : levels) {
          draft.levels.push_back({num_children, num_expanded, choice});
        }
        draft.max_num_nodes = max_num_nodes;
        draft.min_level_prob = min_level_prob;
        draft.num_kept = num_kept;
        draft.noise_weight = noise_weight;
        draft.slots = std::move(slots);
        draft.num_candidates = num_candidates;
        draft.token_ids = at<int64_t>(token_ids);
        draft.vocab_size = vocab_size;
        draft.caches = &caches;
        draft.states = at<float>(states);
        Drafted found;
        {
          const py::gil_scoped_release no_gil;
          found = draft_levels(program, draft);
        }
        std::vector<FoundTuple> nodes;
        for (FoundNode& node : found.nodes) {
          nodes.emplace_back(node.parent, node.token_id, node.log_prob, std::move(node.proposals));
        }
        return std::make_pair(std::move(found.root_proposals), std::move(nodes));
      },
      py::kw_only(), arg("context_slots"), arg("context_len"), arg("first_position"), arg("read"), arg("root_state"),
      arg("state_size"), arg("root_proposals"), arg("levels"), arg("max_num_nodes"), arg("min_level_prob"),
      arg("num_kept"), arg("noise_weight"), arg("slots"), arg("num_candidates"), arg("token_ids"), arg("vocab_size"),
      arg("caches"), arg("states"));
}

}  // namespace

void bind_program(py::module_& module) {
  py::class_<KvCaches>(module, "KvCaches")
      .def(py::init([](std::vector<Address> keys, std::vector<Address> values, DType dtype, int64_t num_slots) {
             return KvCaches{std::move(keys), std::move(values), dtype, num_slots};
           }),
           py::kw_only(), arg("keys"), arg("values"), arg("dtype"), arg("num_slots"));
  py::class_<Buffer>(module, "Buffer").def(py::init([](int64_t place, int64_t width) { return Buffer{place, width}; }));
  py::class_<Program> program_class(module, "Program");
  program_class
      .def(py::init([](std::vector<int64_t> widths, std::optional<int64_t> vocab_size,
                       std::optional<int64_t> num_positions, bool has_caches) {
             return std::make_unique<Program>(std::move(widths), PassLimits{vocab_size, num_positions, has_caches});
           }),
           arg("widths"), py::kw_only(), arg("vocab_size"), arg("num_positions"), arg("has_caches"))
      .def("add", [](Program& program, const std::string& kind,
                     const py::kwargs& fields) { program.add(kind, fields.cast<NamedFields>()); })
      .def(
          "begin",
          [](Program& program, int64_t num_rows, Address token_ids, Address positions, Address slots,
             const AttentionPlan& plan, const KvCaches& caches, Address hidden, std::vector<Address> kept,
             std::vector<Address> shortlisted, Address asked_rows_address, const std::vector<Choice>& choices,
             Address logits, int64_t logits_width) {
            program.begin({num_rows, at<int64_t>(token_ids), at<int32_t>(positions), at<int32_t>(slots), &plan, &caches,
                           at<float>(hidden), std::move(kept), std::move(shortlisted), at<int64_t>(asked_rows_address),
                           asked_rows(choices, at<float>(logits), logits_width)});
          },
          py::kw_only(), arg("num_rows"), arg("token_ids"), arg("positions"), arg("slots"), arg("plan"), arg("caches"),
          arg("hidden"), arg("kept"), arg("shortlisted"), arg("asked_rows"), arg("choices"), arg("logits"),
          arg("logits_width"))
      .def("run", &Program::run, NoGil(), arg("first"), arg("end"))
      .def("choices", &Program::choices)
      .def(
          "buffer",
          [](Program& program, int64_t place, int64_t width) {
            return py::memoryview::from_buffer(program.buffer(place), {program.num_rows() * width},
                                               {static_cast<int64_t>(sizeof(float))});
          },
          arg("place"), arg("width"))
      .def_property_readonly("num_rows", &Program::num_rows);
  bind_draft_levels(module, program_class);
}

}  // namespace specgrove
