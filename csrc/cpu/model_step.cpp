#include "model_step.h"

#include <algorithm>
#include <stdexcept>

#include "elementwise.h"
#include "tile_state.h"

namespace specgrove {
namespace {

float* room_for(std::vector<float>* values, int64_t count) {
  if (static_cast<int64_t>(values->size()) < count) values->resize(count);
  return values->data();
}

}  // namespace

ModelStep::ModelStep(const StepEmbedding& embedding, DecoderStep* layers, const StepHead& head)
    : embedding_(embedding), layers_(layers), head_(head) {}

void ModelStep::embed_rows(const ModelRows& rows, float* hidden) {
  const int64_t num_rows = rows.layers.num_rows, hidden_size = layers_->shape().hidden_size;
  float* const embedded = embedding_.projection == nullptr ? hidden : room_for(&embedded_, num_rows * embedding_.size);
  embed(embedding_.table, embedding_.dtype, embedding_.vocab_size, rows.token_ids, num_rows, embedding_.size, embedded);
  if (embedding_.scale != 1.0f) {
    for (int64_t i = 0; i < num_rows * embedding_.size; ++i) embedded[i] *= embedding_.scale;
  }
  if (embedding_.projection != nullptr) embedding_.projection->forward(embedded, num_rows, hidden);
  if (embedding_.positions == nullptr) return;
  position_ids_.assign(rows.layers.positions, rows.layers.positions + num_rows);
  float* const learned = room_for(&embedded_, num_rows * hidden_size);
  embed(embedding_.positions, embedding_.dtype, embedding_.num_positions, position_ids_.data(), num_rows, hidden_size,
        learned);
  add(hidden, learned, num_rows, hidden_size);
}

std::vector<int64_t> ModelStep::run(ModelRows* rows) {
  const std::lock_guard<std::mutex> running(mutex_);
  const TilesInUse in_use;
  const int64_t num_rows = rows->layers.num_rows, hidden_size = layers_->shape().hidden_size;
  const int64_t num_asked = static_cast<int64_t>(rows->asked.size());
  for (int64_t i = 0; i < num_asked; ++i) {
    const int64_t before = i == 0 ? -1 : rows->asked_rows[i - 1];
    if (rows->asked_rows[i] <= before || rows->asked_rows[i] >= num_rows) {
      throw std::invalid_argument("asked rows must be rows of the pass, in rising order");
    }
  }
  const int64_t head_floats = num_asked * std::max(hidden_size, head_.size);
  float* const hidden = room_for(&hidden_, std::max(num_rows * hidden_size, head_floats));
  embed_rows(*rows, hidden);
  rows->layers.hidden = hidden;
  if (num_asked > 0) rows->layers.following = head_.projection != nullptr ? head_.projection : head_.vocab;
  rows->layers.wanted = WantedRows{rows->asked_rows, num_asked};
  layers_->run(rows->layers);
  if (num_asked == 0) return {};

  float* asked = hidden;
  float* other = room_for(&normed_, head_floats);
  if (head_.norm.scale != nullptr) {
    layers_->norm(head_.norm, asked, num_asked, other);
    std::swap(asked, other);
  }
  if (head_.projection != nullptr) {
    head_.projection->forward(asked, num_asked, other);
    std::swap(asked, other);
  }
  choices_.begin(rows->asked);
  head_.vocab->forward_to(asked, num_asked, &choices_);
  std::vector<int64_t> found(num_asked);
  for (int64_t i = 0; i < num_asked; ++i) found[i] = choices_.choice(i);
  return found;
}

}  // namespace specgrove
