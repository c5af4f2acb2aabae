// Sizes that Python plans memory and packs weights with. It has them in plain code too, for machines without these
// kernels; tests/kernels/cuda/test_constants.py holds both equal.
#include "attention_plan.h"
#include "bindings.h"
#include "choices.h"
#include "small_linear.h"

namespace specgrove::cuda {

void bind_constants(py::module_& module) {
  const auto words = [](size_t num_bytes) { return num_bytes / sizeof(int32_t); };
  py::dict constants;
  constants["BLOCK_KEYS"] = kBlockKeys;
  constants["SPLIT_KEYS"] = kSplitBlocks * kBlockKeys;
  constants["SPAN_SPLITS"] = kSpanSplits;
  constants["TILE_QUERIES"] = kTileQueries;
  constants["MAX_SPLIT_TURNS"] = kMaxSplitTurns;
  constants["HEADER"] = words(sizeof(PlanHeader));
  constants["ITEM"] = words(sizeof(PlanItem));
  constants["TILE"] = words(sizeof(PlanTile));
  constants["PASS"] = words(sizeof(PlanPass));
  constants["LINEAR_BLOCK"] = kLinearOutputs;
  constants["LINEAR_MAX_ROWS"] = kLinearMaxRows;
  constants["LINEAR_MAX_TILES"] = kLinearMaxTiles;
  constants["CHUNK"] = kChunk;
  constants["WARPS"] = kLinearWarps;
  constants["NOT_A_NUMBER"] = kNotANumber;
  constants["ALL_BANNED"] = kAllBanned;
  module.attr("CONSTANTS") = constants;
}

}  // namespace specgrove::cuda
