#include "program.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "activation.h"
#include "elementwise.h"
#include "shortlist.h"
#include "tile_state.h"

namespace specgrove {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
constexpr int64_t kRowsScoredAtOnce = 16;  // by a shortlist: a row has a score for every token id

// The kinds of ops: what each is made of, and what it does. What they compute is said in specgrove/program/ops.py.

Op embed_op(OpFields& fields, PassLimits& limits) {
  const Embedding embedding{fields.address<void>("table"), fields.get<DType>("dtype"), fields.integer("first_id"),
                            fields.integer("num_ids"),     fields.integer("size"),     fields.number("scale")};
  limits.vocab_size = std::min(limits.vocab_size, fields.integer("vocab_size"));
  return {[embedding, out = fields.buffer("out")](Pass& pass) {
    embed(embedding, pass.given.token_ids, pass.num_rows, pass.at(out));
  }};
}

Op add_positions_op(OpFields& fields, PassLimits& limits) {
  const void* const table = fields.address<void>("table");
  const DType dtype = fields.get<DType>("dtype");
  limits.num_positions = std::min(limits.num_positions, fields.integer("num_positions"));
  return {[table, dtype, x = fields.buffer("x"), size = fields.integer("size")](Pass& pass) {
    add_positions(table, dtype, pass.given.positions, pass.num_rows, size, pass.at(x));
  }};
}

Op input_op(OpFields& fields, PassLimits&) {
  return {[out = fields.buffer("out"), size = fields.integer("size")](Pass& pass) {
    std::copy_n(pass.given.hidden, pass.num_rows * size, pass.at(out));
  }};
}

struct NormFields {
  explicit NormFields(OpFields& fields)
      : is_rms(fields.truth("is_rms")),
        scale(fields.address<float>("scale")),
        shift(fields.address<float>("shift")),
        eps(fields.number("eps")),
        size(fields.integer("size")) {}

  bool is_rms;
  const float *scale, *shift;
  float eps;
  int64_t size;
};

Op norm_op(OpFields& fields, PassLimits&) {
  return {[norm = NormFields(fields), out = fields.buffer("out"), x = fields.buffer("x")](Pass& pass) {
    if (norm.is_rms) {
      rms_norm(pass.at(x), norm.scale, norm.eps, pass.num_rows, norm.size, pass.at(out));
    } else {
      layer_norm(pass.at(x), norm.scale, norm.shift, norm.eps, pass.num_rows, norm.size, pass.at(out));
    }
  }};
}

Op add_norm_op(OpFields& fields, PassLimits&) {
  const int64_t out = fields.buffer("out"), x = fields.buffer("x"), delta = fields.buffer("delta");
  return {[norm = NormFields(fields), out, x, delta](Pass& pass) {
    if (norm.is_rms) {
      add_rms_norm(pass.at(x), pass.at(delta), norm.scale, norm.eps, pass.num_rows, norm.size, pass.at(out));
    } else {
      add_layer_norm(pass.at(x), pass.at(delta), norm.scale, norm.shift, norm.eps, pass.num_rows, norm.size,
                     pass.at(out));
    }
  }};
}

Op head_norm_op(OpFields& fields, PassLimits&) {
  const float* const scale = fields.address<float>("scale");
  const float eps = fields.number("eps");
  const int64_t x = fields.buffer("x"), width = fields.integer("width"), first_head = fields.integer("first_head"),
                num_heads = fields.integer("num_heads"), head_dim = fields.integer("head_dim");
  return {[=](Pass& pass) {
    head_rms_norm(pass.at(x), scale, eps, pass.num_rows, width, first_head, num_heads, head_dim);
  }};
}

Op concat_op(OpFields& fields, PassLimits&) {
  return {[out = fields.buffer("out"), parts = fields.buffers("parts"),
           sizes = fields.get<std::vector<int64_t>>("sizes")](Pass& pass) {
    float* place = pass.at(out);
    for (int64_t row = 0; row < pass.num_rows; ++row) {
      for (size_t part = 0; part < parts.size(); ++part) {
        place = std::copy_n(pass.at(parts[part]) + row * sizes[part], sizes[part], place);
      }
    }
  }};
}

Op multiply_op(OpFields& fields, PassLimits&) {
  const AnyLinear* const linear = fields.get<const AnyLinear*>("linear");
  return {[linear, out = fields.buffer("out"), x = fields.buffer("x")](Pass& pass) {
            linear->forward(pass.at(x), pass.num_rows, pass.at(out));
          },
          linear};
}

Op clip_op(OpFields& fields, PassLimits&) {
  return {[x = fields.buffer("x"), limit = fields.number("limit"), width = fields.integer("width")](Pass& pass) {
    clip(pass.at(x), limit, pass.num_rows, width);
  }};
}

Op rotate_store_op(OpFields& fields, PassLimits& limits) {
  RotateAndStore call{};
  call.cos_sin = fields.address<float>("cos_sin");
  call.num_heads = fields.integer("num_heads");
  call.num_kv_heads = fields.integer("num_kv_heads");
  call.head_dim = fields.integer("head_dim");
  const int64_t num_positions = fields.integer("num_positions");
  if (call.cos_sin != nullptr) limits.num_positions = std::min(limits.num_positions, num_positions);
  limits.has_slots = true;
  const int64_t queries = fields.buffer("queries"), qkv = fields.buffer("qkv"), layer = fields.integer("layer");
  return {[=](Pass& pass) {
    const KvCaches& caches = *pass.given.caches;
    RotateAndStore each = call;
    each.qkv = pass.at(qkv);
    each.positions = pass.given.positions;
    each.slots = pass.given.slots;
    each.k_cache = reinterpret_cast<void*>(caches.keys[layer]);
    each.v_cache = reinterpret_cast<void*>(caches.values[layer]);
    each.dtype = caches.dtype;
    each.num_rows = pass.num_rows;
    each.queries = pass.at(queries);
    rotate_and_store(each);
  }};
}

Op attend_op(OpFields& fields, PassLimits& limits) {
  const int64_t out = fields.buffer("out"), queries = fields.buffer("queries"), layer = fields.integer("layer"),
                num_heads = fields.integer("num_heads"), num_kv_heads = fields.integer("num_kv_heads"),
                head_dim = fields.integer("head_dim"), window = fields.integer("window");
  const float scale = fields.number("scale"), soft_cap = fields.number("soft_cap");
  const float* const alibi_slopes = fields.address<float>("alibi_slopes");
  limits.has_attention = true;
  return {[=](Pass& pass) {
    const KvCaches& caches = *pass.given.caches;
    const KvCache cache{reinterpret_cast<const void*>(caches.keys[layer]),
                        reinterpret_cast<const void*>(caches.values[layer]),
                        caches.dtype,
                        caches.num_slots,
                        num_kv_heads,
                        head_dim};
    tree_attention(pass.at(queries), cache, *pass.plan, num_heads, scale, soft_cap, alibi_slopes,
                   window == 0 ? kNoLimit : window, pass.at(out));
  }};
}

Op activate_op(OpFields& fields, PassLimits&) {
  const auto apply = fields.truth("is_gated") ? gated : activate;
  const auto activation = fields.get<Activation>("activation");
  const int64_t out = fields.buffer("out"), x = fields.buffer("x"), size = fields.integer("size");
  return {[=](Pass& pass) { apply(pass.at(x), activation, pass.num_rows, size, pass.at(out)); }};
}

Op add_op(OpFields& fields, PassLimits&) {
  return {[x = fields.buffer("x"), delta = fields.buffer("delta"), size = fields.integer("size")](Pass& pass) {
    add(pass.at(x), pass.at(delta), pass.num_rows, size);
  }};
}

// Asked rows rise, so each moves to a place that is free or its own.
Op take_rows_op(OpFields& fields, PassLimits&) {
  return {[buffers = fields.buffers("buffers"), sizes = fields.get<std::vector<int64_t>>("sizes")](Pass& pass) {
    const int64_t num_asked = static_cast<int64_t>(pass.given.asked.size());
    if (num_asked == pass.num_rows) return;
    for (size_t place = 0; place < buffers.size(); ++place) {
      float* const values = pass.at(buffers[place]);
      const int64_t size = sizes[place];
      for (int64_t i = 0; i < num_asked; ++i) {
        const int64_t row = pass.given.asked_rows[i];
        if (row != i) std::copy_n(values + row * size, size, values + i * size);
      }
    }
    pass.plan_of_asked.select(*pass.plan, pass.given.asked_rows, num_asked);
    pass.plan = &pass.plan_of_asked;
    pass.num_rows = num_asked;
  }};
}

Op keep_hidden_op(OpFields& fields, PassLimits&) {
  return {[x = fields.buffer("x"), place = fields.integer("place"), size = fields.integer("width")](Pass& pass) {
    std::copy_n(pass.at(x), pass.num_rows * size, reinterpret_cast<float*>(pass.given.kept[place]));
  }};
}

Op choose_op(OpFields& fields, PassLimits&) {
  const AnyLinear* const vocab = fields.get<const AnyLinear*>("vocab");
  return {[vocab, x = fields.buffer("x"), soft_cap = fields.number("soft_cap")](Pass& pass) {
            pass.choices.begin(pass.given.asked, soft_cap);
            vocab->forward_to(pass.at(x), pass.num_rows, &pass.choices);
          },
          vocab};
}

Op shortlist_op(OpFields& fields, PassLimits&) {
  const AnyLinear* const scores = fields.get<const AnyLinear*>("scores");
  Shortlist call{};
  call.num_ids = fields.integer("num_ids");
  call.table = fields.address<void>("table");
  call.dtype = fields.get<DType>("dtype");
  call.size = fields.integer("size");
  call.num_candidates = fields.integer("num_candidates");
  call.soft_cap = fields.number("soft_cap");
  const int64_t scored_size = fields.integer("scored_size"), place = fields.integer("place");
  return {[=, x = fields.buffer("x"), scored = fields.buffer("scored")](Pass& pass) {
            const uintptr_t* const kept = pass.given.kept.data() + place;
            const Shortlisted out{reinterpret_cast<int32_t*>(kept[0]), reinterpret_cast<float*>(kept[1]),
                                  reinterpret_cast<float*>(kept[2])};
            for (int64_t first = 0; first < pass.num_rows; first += kRowsScoredAtOnce) {
              const int64_t num_rows = std::min(kRowsScoredAtOnce, pass.num_rows - first);
              float* const found = pass.scores.room(num_rows * call.num_ids);
              scores->forward(pass.at(scored) + first * scored_size, num_rows, found);
              shortlist(call, pass.at(x) + first * call.size, found, num_rows, out.from(first, call.num_candidates));
            }
          },
          scores};
}

using OpMaker = Op (*)(OpFields& fields, PassLimits& limits);
const std::map<std::string, OpMaker>& op_makers() {
  static const std::map<std::string, OpMaker> makers{
      {"embed", embed_op},
      {"add_positions", add_positions_op},
      {"input", input_op},
      {"norm", norm_op},
      {"add_norm", add_norm_op},
      {"head_norm", head_norm_op},
      {"concat", concat_op},
      {"multiply", multiply_op},
      {"clip", clip_op},
      {"rotate_store", rotate_store_op},
      {"attend", attend_op},
      {"activate", activate_op},
      {"add", add_op},
      {"take_rows", take_rows_op},
      {"keep_hidden", keep_hidden_op},
      {"choose", choose_op},
      {"shortlist", shortlist_op},
  };
  return makers;
}

}  // namespace

Program::Program(std::vector<int64_t> widths) : widths_(std::move(widths)), limits_{kNoLimit, kNoLimit, false, false} {
  pass_.buffers.resize(widths_.size());
}

void Program::add(const std::string& kind, const std::map<std::string, OpField>& fields) {
  const auto maker = op_makers().find(kind);
  if (maker == op_makers().end()) throw std::invalid_argument("there is no op " + kind);
  OpFields named(kind, fields, widths_.size());
  ops_.push_back(maker->second(named, limits_));
  named.check_all_read();
}

void Program::check(const PassRows& rows) const {
  for (size_t i = 0; i < rows.asked.size(); ++i) {
    const int64_t before = i == 0 ? -1 : rows.asked_rows[i - 1];
    if (rows.asked_rows[i] <= before || rows.asked_rows[i] >= rows.num_rows) {
      throw std::invalid_argument("asked rows must be rows of the pass, in rising order");
    }
  }
  const auto [vocab_size, num_positions, has_slots, has_attention] = limits_;
  if (vocab_size < kNoLimit) check_indices(rows.token_ids, rows.num_rows, vocab_size, "token ids");
  if (num_positions < kNoLimit) check_indices(rows.positions, rows.num_rows, num_positions, "positions");
  if (has_slots) check_indices(rows.slots, rows.num_rows, rows.caches->num_slots, "slots");
  if (has_attention) check_slots(*rows.plan, rows.caches->num_slots);
}

void Program::begin(PassRows rows) {
  check(rows);
  for (size_t place = 0; place < widths_.size(); ++place) {
    std::vector<float>& buffer = pass_.buffers[place];
    buffer.resize(std::max<size_t>(buffer.size(), rows.num_rows * widths_[place]));
  }
  pass_.given = std::move(rows);
  pass_.num_rows = pass_.given.num_rows;
  pass_.plan = pass_.given.plan;
}

void Program::run(size_t first, size_t end) {
  const TilesInUse in_use;
  for (size_t place = first; place < std::min(end, ops_.size()) && pass_.num_rows > 0; ++place) {
    if (ops_[place].linear != nullptr) read_ahead(place + 1, end);
    ops_[place].run(pass_);
  }
}

// The weights that are used next, while these are.
void Program::read_ahead(size_t first, size_t end) const {
  for (size_t place = first; place < std::min(end, ops_.size()); ++place) {
    if (ops_[place].linear != nullptr) return ops_[place].linear->read_ahead();
  }
}

std::vector<int64_t> Program::choices() const {
  std::vector<int64_t> found(pass_.given.asked.size());
  for (size_t i = 0; i < found.size(); ++i) found[i] = pass_.choices.choice(i);
  return found;
}

}  // namespace specgrove
