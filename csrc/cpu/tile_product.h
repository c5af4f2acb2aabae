// One product of two tiles, for tests of the tiles themselves.
#pragma once

#include <cstdint>

namespace specgrove {

// c[num_rows, num_outputs] += a[num_rows, num_words] * b[num_words, num_outputs], in words of 32 bits: pairs of
// bfloat16 with sums in float32, or four signed bytes with sums in int32. At most 16 of each.
struct TileProduct {
  const void *a, *b;
  void* c;
  int64_t num_rows, num_words, num_outputs;
};

// On the processor's tiles where the instruction set is AMX, else on the twin.
void tile_product_bf16(const TileProduct& product);
void tile_product_s8(const TileProduct& product);

struct TileProducts {
  void (*bf16)(const TileProduct& product);
  void (*s8)(const TileProduct& product);
};
TileProducts tile_products_amx();
TileProducts tile_products_amx_twin();

}  // namespace specgrove
