// A whole model's forward pass in one call: from token ids to logits or choices. The embedding and the head around the
// layers of DecoderStep, by the same kernels as specgrove.program.decoder calls one by one, so the same bits.
//
// Addresses and linears belong to the caller (specgrove.kernels.model_step), which keeps them alive.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "decoder_step.h"
#include "row_choices.h"

namespace specgrove {

struct StepEmbedding {
  const void* table;      // [vocab_size, size]
  const void* positions;  // [num_positions, hidden_size] or null
  DType dtype;            // of both
  int64_t vocab_size, size, num_positions;
  float scale;
  const AnyLinear* projection;  // from size to hidden_size, or null: they are the same
};

struct StepHead {
  StepNorm norm;                // without a scale: none
  const AnyLinear* projection;  // from hidden_size to size, or null: they are the same
  const AnyLinear* vocab;
  int64_t size;
};

struct ModelRows {
  const int64_t* token_ids;   // [layers.num_rows]
  StepRows layers;            // hidden is set here
  const int64_t* asked_rows;  // of them, those that are asked for something, in rising order
  std::vector<AskedRow> asked;
};

class ModelStep {
 public:
  // layers must outlive it.
  ModelStep(const StepEmbedding& embedding, DecoderStep* layers, const StepHead& head);

  // For each asked row a choice, or kNoChoice where its logits were written; see row_choices.h. Throws
  // std::invalid_argument for a token id, position, slot or row out of range, before anything is written.
  std::vector<int64_t> run(ModelRows* rows);

 private:
  void embed_rows(const ModelRows& rows, float* hidden);

  const StepEmbedding embedding_;
  DecoderStep* const layers_;
  const StepHead head_;
  std::mutex mutex_;  // one run at a time: the scratch is one
  std::vector<float> hidden_, embedded_, normed_;
  std::vector<int64_t> position_ids_;
  RowChoices choices_;
};

}  // namespace specgrove
