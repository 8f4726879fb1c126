// Which pairs Blocks keep, as kept.cuh says it of a Band: of two blocks a table says how often. Whether any
// pair of two ranges is kept is found out by all threads of a CTA together.
#pragma once

#include "place.cuh"

namespace pkernels {
namespace cuda {

struct Listed {
  const int32_t* counts;  // of the head: a row for each block of queries
  int size, across, n_q, n_k;

  PK_DEVICE int block_of(int row) const {
    return static_cast<int>(static_cast<uint32_t>(row) / static_cast<uint32_t>(size));
  }

  // A weight, as often as its pair is kept: listed twice, it counts twice.
  PK_DEVICE float weigh(float weight, int i, int j) const {
    if (i < 0 || j < 0 || i >= n_q || j >= n_k) return 0;
    const int times = counts[static_cast<int64_t>(block_of(i)) * across + block_of(j)];
    return times ? weight * static_cast<float>(times) : 0.0f;
  }

  // Whether a block of queries [i, end) and one of keys [j, last) is listed.
  PK_DEVICE bool any(int64_t i, int64_t end, int64_t j, int64_t last) const {
    i = larger(0, i), j = larger(0, j), end = smaller(end, n_q), last = smaller(last, n_k);
    bool found = false;
    if (i < end && j < last) {
      const int row = block_of(static_cast<int>(i)), column = block_of(static_cast<int>(j));
      const int wide = block_of(static_cast<int>(last - 1)) - column + 1;
      const int all = (block_of(static_cast<int>(end - 1)) - row + 1) * wide;
      for (int at = threadIdx.x; at < all && !found; at += blockDim.x) {
        found = counts[static_cast<int64_t>(row + at / wide) * across + column + at % wide] != 0;
      }
    }
    return __syncthreads_or(found);
  }

  PK_DEVICE Range run(int i, int count, int64_t from, int64_t end, int width) const {
    while (from < end && !any(i, i + count, from, from + width)) from += width;
    int64_t last = from;
    while (last < end && any(i, i + count, last, last + width)) last += width;
    return {from, smaller(last, end) - from};
  }

  PK_DEVICE bool meets(int t, int width, int i, int count, int) const {  // no dilation
    const int64_t first = static_cast<int64_t>(i) + t;
    return any(i, i + count, first, first + count - 1 + width);
  }

  static PK_DEVICE Listed of(const Backward& f, const Place& x) {
    const Blocks& blocks = f.call.problem.blocks;
    const int64_t head = blocks.lists == 1 ? 0 : x.head * blocks.rows * f.across;
    return {f.call.counts + head, static_cast<int>(blocks.size), static_cast<int>(f.across),
            static_cast<int>(x.queries.count), static_cast<int>(x.keys.count)};
  }
};

}  // namespace cuda
}  // namespace pkernels
