#include "memory_reader.h"

#include <atomic>
#include <numeric>
#include <stdexcept>

#include "clones.h"
#include "thread_pool.h"

namespace specgrove {
namespace {

constexpr int64_t kLineWords = 8;

// Words are added one by one, of each line in lanes of their own: loads are all that costs time.
template <int kStreams>
[[gnu::always_inline]] inline uint64_t sum_words(const uint64_t* words, int64_t count) {
  const int64_t lines_each = count / kLineWords / kStreams;
  uint64_t sums[kLineWords] = {};
  for (int64_t line = 0; line < lines_each; ++line) {
    for (int64_t stream = 0; stream < kStreams; ++stream) {
      const uint64_t* from = words + (stream * lines_each + line) * kLineWords;
      for (int64_t i = 0; i < kLineWords; ++i) sums[i] += from[i];
    }
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  for (int64_t i = lines_each * kStreams * kLineWords; i < count; ++i) total += words[i];
  return total;
}

SPECGROVE_CLONES uint64_t sum_of_words(const uint64_t* words, int64_t count, int num_streams) {
  switch (num_streams) {
    case 1:
      return sum_words<1>(words, count);
    case 4:
      return sum_words<4>(words, count);
    default:
      return sum_words<8>(words, count);
  }
}

}  // namespace

MemoryReader::MemoryReader(int64_t num_bytes) : bytes_(num_bytes) {
  auto* const words = static_cast<uint64_t*>(bytes_.owned());
  std::iota(words, words + num_bytes / static_cast<int64_t>(sizeof *words), uint64_t{0});
}

uint64_t MemoryReader::read(int num_streams) const {
  if (num_streams != 1 && num_streams != 4 && num_streams != 8) {
    throw std::invalid_argument("num_streams must be 1, 4 or 8");
  }
  const int64_t num_words = bytes_.size() / static_cast<int64_t>(sizeof(uint64_t));
  const int64_t num_shares = ThreadPool::instance().num_threads();
  const auto* const words = reinterpret_cast<const uint64_t*>(bytes_.data());
  std::atomic<uint64_t> total{0};
  ThreadPool::instance().run(num_shares, [&](int64_t share) {
    const int64_t begin = num_words * share / num_shares, end = num_words * (share + 1) / num_shares;
    total += sum_of_words(words + begin, end - begin, num_streams);
  });
  return total;
}

}  // namespace specgrove
