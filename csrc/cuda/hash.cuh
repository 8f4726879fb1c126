// LSH hashes, argmax([x R; -x R]), a CTA per tile of rows, head and round. Products are taken in
// float32, a tile of columns at a time, and only their maxima are kept: less would move rows into
// other buckets. A thread has 4 rows and 8 columns of a tile.
#pragma once

#include "../band.h"
#include "instructions.cuh"
#include "order.h"

namespace pkernels {
namespace cuda {

struct HashShape {
  static constexpr int threads = 128, rows = 64, columns = 64, depth = 16;
  static constexpr int at_once = 4;    // CTAs of a multiprocessor: left to itself, the compiler spills on sm_100
  static constexpr int ld = rows + 4;  // of the transposed rows, whose quadruples stay aligned
};

static_assert(HashShape::depth == 16 && HashShape::ld % 32 == 4, "of what a warp copies");

struct HashTiles {
  float x[HashShape::depth][HashShape::ld], r[HashShape::depth][HashShape::columns];
};

// The largest number so far and its index, the first of equals.
struct Best {
  float value = -INFINITY;
  int index = 0;

  PK_DEVICE void challenge(float other, int at) {
    if (other > value || (other == value && at < index)) value = other, index = at;
  }
};

PK_DEVICE float number_at(const Hashing& f, int64_t at) {
  if (f.type == Type::f32) return static_cast<const float*>(f.x.data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(f.x.data)[at];
  return f.type == Type::bf16 ? Bf16::low(bits) : F16::low(bits);
}

struct HashPass {
  using Shape = HashShape;

  const Hashing& f;
  HashTiles& tiles;
  int64_t sequence, head, round, first;  // row of the tile

  // Features [k, k + depth) of the rows, and of columns [e, e + Shape::columns) of `half` from `begin` on.
  PK_DEVICE void load(int64_t k, int64_t begin, int64_t e, int64_t half) const {
    const int64_t rows = sequence * f.x.batch + head * f.x.head;
    for (int i = threadIdx.x; i < Shape::rows * Shape::depth; i += Shape::threads) {
      // A warp takes 8 features of 4 rows: transposed, they lie in 32 banks.
      const int r = i / 8 % 4 + i / 64 * 4, c = i % 8 + i / 32 % 2 * 8;
      const bool there = first + r < f.rows && k + c < f.d;
      tiles.x[c][r] = there ? number_at(f, rows + (first + r) * f.x.row + k + c) : 0.0f;
    }
    for (int i = threadIdx.x; i < Shape::columns * Shape::depth; i += Shape::threads) {
      const int r = i / Shape::columns, c = i % Shape::columns;
      const bool there = k + r < f.d && e + c < half;
      const int64_t at = ((head * f.d + k + r) * f.rounds + round) * f.columns + begin + e + c;
      tiles.r[r][c] = there ? f.rotations[at] : 0.0f;
    }
  }

  // products[4 rows][8 columns] += x R over the features that are loaded.
  PK_DEVICE void multiply(float (&products)[4][8]) const {
    const int row = threadIdx.x / 8 * 4, column = threadIdx.x % 8 * 4;
#pragma unroll
    for (int k = 0; k < Shape::depth; ++k) {
      const float4 x4 = *reinterpret_cast<const float4*>(&tiles.x[k][row]);
      const float4 y4 = *reinterpret_cast<const float4*>(&tiles.r[k][column]);
      const float4 z4 = *reinterpret_cast<const float4*>(&tiles.r[k][column + 32]);
      const float x[4] = {x4.x, x4.y, x4.z, x4.w}, y[8] = {y4.x, y4.y, y4.z, y4.w, z4.x, z4.y, z4.z, z4.w};
#pragma unroll
      for (int i = 0; i < 32; ++i) products[i / 8][i % 8] = fmaf(x[i / 8], y[i % 8], products[i / 8][i % 8]);
    }
  }

  // The hashes of the thread's four rows by `half` rotations from column `begin` on.
  PK_DEVICE void hash(int (&found)[4], int64_t begin, int half) const {
    Best most[4], least[4];
    for (int e = 0; e < half; e += Shape::columns) {
      float products[4][8] = {};
      for (int64_t k = 0; k < f.d; k += Shape::depth) {
        __syncthreads();
        load(k, begin, e, half);
        __syncthreads();
        multiply(products);
      }
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const int at = e + threadIdx.x % 8 * 4 + i % 4 + i % 8 / 4 * 32;
        if (at >= half) continue;
        most[i / 8].challenge(products[i / 8][i % 8], at);
        least[i / 8].challenge(-products[i / 8][i % 8], at);
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int lane = 1; lane < 8; lane *= 2) {
        for (Best* best : {&most[r], &least[r]}) {
          const float value = __shfl_xor_sync(~0u, best->value, lane);
          best->challenge(value, __shfl_xor_sync(~0u, best->index, lane));
        }
      }
      found[r] = least[r].value > most[r].value ? half + least[r].index : most[r].index;
    }
  }

  PK_DEVICE void run() const {
    int sums[4] = {}, unit = 1;
    int64_t begin = 0;
    for (int i = 0; i < f.factors; ++i) {
      const int half = f.buckets[i] / 2;
      int found[4];
      hash(found, begin, half);
#pragma unroll
      for (int r = 0; r < 4; ++r) sums[r] += unit * found[r];
      begin += half, unit *= f.buckets[i];
    }
    int32_t* to = f.hashes + ((sequence * f.heads + head) * f.rounds + round) * f.rows;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int64_t row = first + threadIdx.x / 8 * 4 + r;
      if (threadIdx.x % 8 != 0 || row >= f.rows) continue;
      to[row] = f.mask && !f.mask[sequence * f.rows + row] ? unit : sums[r];
    }
  }
};

PK_DEVICE void hash(const Hashing& f) {
  __shared__ HashTiles tiles;
  const int64_t tile = blockIdx.x % f.tiles, list = blockIdx.x / f.tiles;
  const int64_t round = list % f.rounds, head = list / f.rounds % f.heads, sequence = list / f.rounds / f.heads;
  HashPass{f, tiles, sequence, head, round, tile * HashShape::rows}.run();
}

}  // namespace cuda
}  // namespace pkernels
