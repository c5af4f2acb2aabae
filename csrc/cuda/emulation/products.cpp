#include "products.h"

#include "../../cpu/clones.h"
#include "../../cpu/number_types.h"
#include "fibers.h"

namespace specgrove::cuda::emulation {

namespace {

using Columns = double __attribute__((vector_size(64)));  // eight

struct Matrices {
  double a[16][16];
  Columns b[16], d[16];
};

// Some rows at a time: the additions of one wait for each other.
SPECGROVE_CLONES void multiply(Matrices* of) {
  for (int row = 0; row < 16; row += 4) {
    Columns sums[4] = {of->d[row], of->d[row + 1], of->d[row + 2], of->d[row + 3]};
    for (int k = 0; k < 16; ++k) {
      for (int i = 0; i < 4; ++i) sums[i] += of->a[row + i][k] * of->b[k];
    }
    for (int i = 0; i < 4; ++i) of->d[row + i] = sums[i];
  }
}

template <typename T>
double number(uint32_t word, int part) {
  return static_cast<double>(to_float(T{static_cast<uint16_t>(word >> 16 * part)}));
}

template <typename T>
void multiply(unsigned char* places) {
  Matrices matrices;
  static_assert(sizeof(Fragments) <= kLaneBytes);
  const auto of_lane = [places](int lane) { return reinterpret_cast<Fragments*>(places + lane * kLaneBytes); };
  for (int lane = 0; lane < 32; ++lane) {
    const Fragments& own = *of_lane(lane);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 2; ++i) {
      for (int part = 0; part < 4; ++part) {
        matrices.a[group + part % 2 * 8][pair + part / 2 * 8 + i] = number<T>(own.a[part], i);
      }
      for (int half = 0; half < 2; ++half) {
        matrices.b[pair + 8 * half + i][group] = number<T>(own.b[half], i);
        matrices.d[group + 8 * half][pair + i] = static_cast<double>(own.d[2 * half + i]);
      }
    }
  }
  multiply(&matrices);
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) of_lane(lane)->d[i] = static_cast<float>(matrices.d[group + i / 2 * 8][pair + i % 2]);
  }
}

}  // namespace

void multiply_bfloat16(unsigned char* places) { multiply<BFloat16>(places); }
void multiply_float16(unsigned char* places) { multiply<Float16>(places); }

}  // namespace specgrove::cuda::emulation
