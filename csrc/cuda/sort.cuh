// Rows in the order of (hash, row), a CTA per list: a radix sort by 8 bits at a time, the least
// first. Each warp has a stretch of the list; it counts its digits, and once the counts of all are
// summed up it puts its rows to their places, 32 at a time and in their order. A lane of each digit acts for the
// others: whatever the GPU does first, the order is the same.
#pragma once

#include "../band.h"
#include "instructions.cuh"
#include "order.h"

namespace pkernels {
namespace cuda {

struct SortShape {
  static constexpr int warps = 32, threads = 32 * warps, bits = 8, digits = 1 << bits;
};

struct SortTables {
  int places[SortShape::warps][SortShape::digits];  // how often a digit is in a stretch; then where the next one goes
  int sums[SortShape::digits / 32];
};

// 32 neighbours in a list, one a lane.
struct Neighbours {
  int row, digit;
  bool last;       // of the rows that are not real
  bool live;       // exists
  uint32_t alike;  // lanes of the same digit

  PK_DEVICE int before() const { return __popc(alike & ((1u << threadIdx.x % 32) - 1)); }
  PK_DEVICE bool leads() const { return live && before() == 0; }
};

struct SortPass {
  using Shape = SortShape;

  const Sorting& f;
  SortTables& tables;
  const int32_t* hashes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  PK_DEVICE Neighbours neighbours(const int32_t* from, int64_t at, int64_t end, int shift) const {
    Neighbours x{};
    x.live = at + lane < end;
    if (x.live) {
      x.row = from ? from[at + lane] : static_cast<int>(at) + lane;
      const int hash = hashes[x.row];
      x.digit = hash >> shift & (Shape::digits - 1), x.last = hash == f.values - 1;
    }
    x.alike = __ballot_sync(~0u, x.live);
#pragma unroll
    for (int bit = 0; bit < Shape::bits; ++bit) {
      const bool set = x.digit >> bit & 1;
      const uint32_t others = __ballot_sync(~0u, set);
      x.alike &= set ? others : ~others;
    }
    return x;
  }

  // Counts to places: before a digit of a stretch come all smaller digits, and the same of stretches before.
  PK_DEVICE void sum_up() const {
    const int digit = threadIdx.x;
    int total = 0, up_to = 0;
    if (digit < Shape::digits) {
      for (int w = 0; w < Shape::warps; ++w) {
        const int count = tables.places[w][digit];
        tables.places[w][digit] = total;
        total += count;
      }
      up_to = total;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int below = __shfl_up_sync(~0u, up_to, step);
        if (lane >= step) up_to += below;
      }
      if (lane == 31) tables.sums[warp] = up_to;
    }
    __syncthreads();
    if (digit < Shape::digits) {
      int begin = up_to - total;
      for (int w = 0; w < warp; ++w) begin += tables.sums[w];
      for (int w = 0; w < Shape::warps; ++w) tables.places[w][digit] += begin;
    }
  }

  PK_DEVICE void sort(const int32_t* from, int32_t* to, int shift, bool finish) const {
    const int64_t stretch = ceil_div(f.rows, Shape::threads) * 32;
    const int64_t begin = smaller(f.rows, warp * stretch), end = smaller(f.rows, begin + stretch);
    int* places = tables.places[warp];
    for (int digit = lane; digit < Shape::digits; digit += 32) places[digit] = 0;
    __syncwarp();
    for (int64_t at = begin; at < end; at += 32) {
      const Neighbours x = neighbours(from, at, end, shift);
      if (x.leads()) atomicAdd(&places[x.digit], __popc(x.alike));
      __syncwarp();
    }
    __syncthreads();
    sum_up();
    __syncthreads();
    for (int64_t at = begin; at < end; at += 32) {
      const Neighbours x = neighbours(from, at, end, shift);
      int place = x.leads() ? atomicAdd(&places[x.digit], __popc(x.alike)) : 0;
      place = __shfl_sync(~0u, place, __ffs(x.alike) - 1);
      if (x.live) to[place + x.before()] = finish && x.last ? -1 : x.row;
    }
    __syncthreads();
  }
};

PK_DEVICE void sort(const Sorting& f) {
  __shared__ SortTables tables;
  const int64_t list = blockIdx.x;
  int32_t *order = f.order + list * f.entries, *spare = f.spare + list * f.rows;
  const SortPass pass{f, tables, f.hashes + list * f.rows};
  int left = 1;  // passes
  while (left * SortShape::bits < 31 && (f.values - 1) >> left * SortShape::bits) ++left;
  const int32_t* from = nullptr;
  for (int shift = 0; left > 0; shift += SortShape::bits) {
    int32_t* to = --left % 2 ? spare : order;
    pass.sort(from, to, shift, left == 0);
    from = to;
  }
  for (int64_t at = f.rows + threadIdx.x; at < f.entries; at += SortShape::threads) order[at] = -1;
}

}  // namespace cuda
}  // namespace pkernels
