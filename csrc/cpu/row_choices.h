// What a forward pass answers for each of its last rows: all logits, or only the one choice that follows from them.
// Choices are made tile by tile, while the head's outputs are in a cache, so those rows' logits are never written.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "any_linear.h"

namespace specgrove {

struct AskedRow {
  float* logits;      // where they go, or null: a choice is wanted
  float temperature;  // of the choice; 0: the largest logit
  uint64_t seed, position;
};

constexpr int64_t kNoChoice = -1;  // the row has logits
constexpr int64_t kNotANumber = -2;
constexpr int64_t kAllBanned = -3;  // all logits are minus infinity

// The choices are those of choose() of sampling.h without adjustments and without top-k, top-p and min-p.
class RowChoices : public TileSink {
 public:
  // For a pass that begins: forgets all choices. The rows must stay until its last choice is asked for. Logits and what
  // is chosen from are soft_cap * tanh(output / soft_cap), or with 0 the outputs themselves.
  void begin(const std::vector<AskedRow>& rows, float soft_cap);

  void take(const OutputTile& tile) override;
  // A token id, or one of the constants above.
  int64_t choice(size_t row) const;

 private:
  // The best value so far and its token id, as choice_key.h puts them together.
  struct Best {
    std::atomic<uint64_t> key{0};
    std::atomic<bool> has_nan{false};

    void offer(float value, int64_t token_id);
    float value() const;
  };

  void offer_largest(const float* logits, const OutputTile& tile, Best* best) const;
  void offer_sampled(const AskedRow& row, const float* logits, const OutputTile& tile, Best* best) const;

  const std::vector<AskedRow>* rows_ = nullptr;
  float soft_cap_ = 0.0f;
  std::unique_ptr<Best[]> bests_;
  size_t num_bests_ = 0;  // of the largest pass so far
};

}  // namespace specgrove
