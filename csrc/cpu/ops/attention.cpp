// Queries, keys and values of a pass: rotated, stored, attended to.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "../clones.h"
#include "../op.h"
#include "../rows.h"

namespace specgrove {
namespace {

SPECGROVE_CLONES void rotate(const float* x, const float* cos_sin, int64_t head_dim, float* out) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float cosine = cos_sin[i], sine = cos_sin[half + i];
    out[i] = x[i] * cosine - x[half + i] * sine;
    out[half + i] = x[half + i] * cosine + x[i] * sine;
  }
}

SPECGROVE_CLONES void convert(const float* x, int64_t count, BFloat16* out) {
  for (int64_t i = 0; i < count; ++i) from_float(x[i], out + i);
}
SPECGROVE_CLONES void convert(const float* x, int64_t count, Float16* out) {
  for (int64_t i = 0; i < count; ++i) from_float(x[i], out + i);
}
void convert(const float* x, int64_t count, float* out) { std::copy_n(x, count, out); }

struct Heads {
  explicit Heads(OpFields& fields)
      : num(fields.integer("num_heads")), num_kv(fields.integer("num_kv_heads")), size(fields.integer("head_dim")) {}

  int64_t num, num_kv, size;
};

const OpKind kRotateStore("RotateStore", [](OpFields& fields) -> Op {
  const Heads heads(fields);
  const int64_t dim = heads.size, layer = fields.integer("layer");
  const float* const table = fields.numbers_or_null<float>("cos_sin", {kAnySize, dim});
  const Buffer queries = fields.buffer("queries"), qkv = fields.buffer("qkv");
  return {[=](Pass& pass) {
    const KvCaches& caches = *pass.given.caches;
    const PassRows& rows = pass.given;
    with_type(caches.dtype, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      T* const all_keys = reinterpret_cast<T*>(caches.keys[layer]);
      T* const all_values = reinterpret_cast<T*>(caches.values[layer]);
      const float* const all = pass.at(qkv);
      float* const out = pass.at(queries);
      for_rows(pass.num_rows, 2 * qkv.width, [&](int64_t row) {
        const float* const x = all + row * qkv.width;
        const float* const own_keys = x + heads.num * dim;
        const int64_t place = rows.slots[row] * heads.num_kv * dim;
        T* const keys = all_keys + place;
        if (table == nullptr) {
          convert(x, heads.num * dim, out + row * queries.width);
          convert(own_keys, heads.num_kv * dim, keys);
        } else {
          const float* const cos_sin = table + rows.positions[row] * dim;
          for (int64_t head = 0; head < heads.num; ++head) {
            rotate(x + head * dim, cos_sin, dim, out + row * queries.width + head * dim);
          }
          for (int64_t head = 0; head < heads.num_kv; ++head) {
            float rotated[kMaxHeadDim];
            rotate(own_keys + head * dim, cos_sin, dim, rotated);
            convert(rotated, dim, keys + head * dim);
          }
        }
        convert(own_keys + heads.num_kv * dim, heads.num_kv * dim, all_values + place);
      });
    });
  }};
});

const OpKind kAttend("Attend", [](OpFields& fields) -> Op {
  const Heads heads(fields);
  const Buffer out = fields.buffer("out"), queries = fields.buffer("queries");
  const int64_t layer = fields.integer("layer"),
                window = fields.integer_or("window", std::numeric_limits<int64_t>::max());
  const float scale = fields.number("scale"), soft_cap = fields.number_or("soft_cap", 0.0f);
  const float* const alibi_slopes = fields.numbers_or_null<float>("alibi_slopes", {heads.num});
  return {[=](Pass& pass) {
    const KvCaches& caches = *pass.given.caches;
    const KvCache cache{reinterpret_cast<const void*>(caches.keys[layer]),
                        reinterpret_cast<const void*>(caches.values[layer]),
                        caches.dtype,
                        caches.num_slots,
                        heads.num_kv,
                        heads.size};
    tree_attention(pass.at(queries), cache, *pass.plan, heads.num, scale, soft_cap, alibi_slopes, window, pass.at(out));
  }};
});

}  // namespace
}  // namespace specgrove
