// A tile of rows in shared memory: D words of 16 bits a row, one or two of which are a number, in
// chunks of 8, of which chunk c of row r lies in place c ^ (r % 8), so that eight rows of one chunk
// lie in different banks.
#pragma once

#include "../params.h"
#include "instructions.cuh"

namespace pkernels {
namespace cuda {

// Rows of one sequence and head, `step` bytes apart, of `width` words of 16 bits.
struct Lines {
  const char* data;
  int64_t step;
  int width;
  bool whole;  // every row is made of 16 bytes each, at multiples of 16
};

PK_DEVICE Lines lines_of(const Rows& x, int64_t batch, int64_t head, int64_t first, int64_t width, int halves = 1) {
  const int64_t at = batch * x.batch + head * x.head + first * x.row;
  const char* data = static_cast<const char*>(x.data) + at * 2 * halves;
  const bool whole = (reinterpret_cast<uintptr_t>(data) % 16 | (x.row | width) * halves % 8) == 0;
  return {data, x.row * 2 * halves, static_cast<int>(width) * halves, whole};
}

PK_DEVICE float* numbers_of(const Rows& x, int64_t batch, int64_t head, int64_t first) {
  return static_cast<float*>(x.data) + batch * x.batch + head * x.head + first;
}

// Of rows first, first + step, ... those from `begin` to `exist` lie in [0, n).
struct Within {
  int begin, exist;
};

PK_DEVICE Within within(int first, int step, int n) {
  if (step == 1) return {-first, n - first};
  return {(max(0, -first) + step - 1) / step, (max(0, n - first) + step - 1) / step};
}

template <int D>
struct Tile {
  static constexpr int chunks = D / 8, row_bytes = D * 2;
  uint32_t address;

  PK_DEVICE uint32_t at(int row, int chunk) const { return address + row * row_bytes + ((chunk ^ (row & 7)) << 4); }

  // The tile from row `row` on, a multiple of 8.
  PK_DEVICE Tile from(int row) const { return {address + row * row_bytes}; }

  // Loads rows first, first + step, ...: `Count` of them, of which those from `begin` to `exist` exist; the others
  // become zeros. What copies there are have only begun.
  template <int Count, int Threads>
  PK_DEVICE void load(const Lines& x, int first, int step, int exist, int begin = 0) const {
    if (x.whole) {
      copy<Count, Threads>(x, first, step, exist, begin);
    } else {
      fill<Count, Threads>(x, first, step, exist, begin);
    }
  }

  // The same of rows that are whole; others become zeros, for now. A thread's rows are the same distance apart, both
  // where they come from and where they go.
  template <int Count, int Threads>
  PK_DEVICE void copy(const Lines& x, int first, int step, int exist, int begin = 0) const {
    constexpr int rows = Threads / chunks;  // at once
    static_assert(Count % rows == 0 && Threads % chunks == 0);
    const int chunk = threadIdx.x % chunks, row = threadIdx.x / chunks;
    const char* from = x.data + (first + static_cast<int64_t>(row) * step) * x.step + chunk * 16;
    const int64_t apart = step * x.step * rows;
    exist = x.whole && chunk * 8 < x.width ? exist - row : 0, begin -= row;
#pragma unroll(row_bytes > 256 || Count == 0 ? 1 : Count / rows)  // no registers are left where rows are wide
    for (int r = 0; r < Count; r += rows, from += apart) {
      copy_async(at(row + r, chunk), from, r < exist && r >= begin ? 16 : 0);
    }
  }

  // The same of rows that are not, number by number. Each thread writes where its copies go.
  template <int Count, int Threads>
  PK_DEVICE void fill(const Lines& x, int first, int step, int exist, int begin = 0) const {
    const int chunk = threadIdx.x % chunks, row = threadIdx.x / chunks, there = x.width - chunk * 8;
    const char* from = x.data + static_cast<int64_t>(first) * x.step + chunk * 16;
#pragma unroll 1
    for (int r = row; r < Count; r += Threads / chunks) {
      uint32_t words[4] = {};
      const auto* numbers = reinterpret_cast<const uint16_t*>(from + static_cast<int64_t>(r) * step * x.step);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        if (r < exist && r >= begin && c < there) words[c / 2] |= static_cast<uint32_t>(numbers[c]) << c % 2 * 16;
      }
      store_shared(at(r, chunk), make_uint4(words[0], words[1], words[2], words[3]));
    }
  }

  // Stores rows [begin, begin + Count) of the tile as rows first + begin * step, ... of x: those below `exist`. By one
  // warp.
  template <int Count>
  PK_DEVICE void store(const Lines& x, int begin, int first, int step, int exist) const {
    const int lane = threadIdx.x % 32, chunk = lane % chunks;
    const int n = min(8, x.width - chunk * 8);
    char* to = const_cast<char*>(x.data) + first * x.step + chunk * 16;
#pragma unroll 4
    for (int r = begin + lane / chunks; r < begin + Count; r += 32 / chunks) {
      if (r >= exist || n <= 0) continue;
      const uint4 x4 = load_shared(at(r, chunk));
      char* line = to + static_cast<int64_t>(r) * step * x.step;
      if (x.whole && n == 8) {
        *reinterpret_cast<uint4*>(line) = x4;
        continue;
      }
      const uint32_t words[4] = {x4.x, x4.y, x4.z, x4.w};
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        if (c < n) reinterpret_cast<uint16_t*>(line)[c] = static_cast<uint16_t>(words[c / 2] >> c % 2 * 16);
      }
    }
  }
};

template <class T, int D>
using TileOf = Tile<D * T::halves>;

// What a warp holds of a product, 16 rows and 8 columns at a time: lane 4g + t has columns 2t and
// 2t + 1 of rows g (numbers 0, 1) and g + 8 (2, 3).
template <int Blocks, int Columns>
using Fragments = float[Blocks][Columns / 8][4];

// sum[rows of a, rows of b] += a bᵀ over D features; block m of the warp's rows of a begins at rows[m]. Where registers
// are few, take some steps at a time.
template <class T, int D, int Blocks, int Columns, int Steps = D / T::columns>
PK_DEVICE void multiply_rows(Fragments<Blocks, Columns>& sum, const TileOf<T, D>& a, const int (&rows)[Blocks],
                             const TileOf<T, D>& b) {
  const int lane = threadIdx.x % 32;
#pragma unroll Steps
  for (int k = 0; k < D / T::columns; ++k) {
    uint32_t x[Blocks][4];
#pragma unroll
    for (int m = 0; m < Blocks; ++m) load_matrices(x[m], a.at(rows[m] + lane % 16, k * 2 + lane / 16));
#pragma unroll
    for (int n = 0; n < Columns / 16; ++n) {
      uint32_t y[4];
      load_matrices(y, b.at(n * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < Blocks; ++m) {
        T::multiply_add(sum[m][2 * n], x[m], y[0], y[1]);
        T::multiply_add(sum[m][2 * n + 1], x[m], y[2], y[3]);
      }
    }
  }
}

// The same, the warp's rows neighbours from `row` on.
template <class T, int D, int Blocks, int Columns, int Steps = D / T::columns>
PK_DEVICE void multiply_rows(Fragments<Blocks, Columns>& sum, const TileOf<T, D>& a, int row, const TileOf<T, D>& b) {
  int rows[Blocks];
#pragma unroll
  for (int m = 0; m < Blocks; ++m) rows[m] = row + m * 16;
  multiply_rows<T, D, Blocks, Columns, Steps>(sum, a, rows, b);
}

// T::columns of weights, from those k times as many on, as the left operand of a product. Of float32 the product's
// columns 0 to 7 are columns 0, 2, 4, 6, 1, 3, 5, 7 of the weights: what a lane holds.
template <class T, int N>
PK_DEVICE void as_operand(uint32_t (&x)[4], const float (&weights)[N][4], int k) {
  if constexpr (T::halves == 2) {
#pragma unroll
    for (int e = 0; e < 4; ++e) x[e] = __float_as_uint(weights[k][e % 2 * 2 + e / 2]);
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      x[2 * half] = T::pack(weights[2 * k + half][0], weights[2 * k + half][1]);
      x[2 * half + 1] = T::pack(weights[2 * k + half][2], weights[2 * k + half][3]);
    }
  }
}

// The rows of b that those columns weigh, 16 columns of them from 16 n on, as the right operand of two products.
template <class T, int Width>
PK_DEVICE void load_across(uint32_t (&y)[4], const Tile<Width>& b, int k, int n) {
  const int lane = threadIdx.x % 32;
  if constexpr (T::halves == 2) {
    const int g = lane / 4, row = k * 8 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i] = load_word(b.at(row + i % 2, n * 4 + i / 2 * 2 + g / 4) + g % 4 * 4);
  } else {
    load_transposed(y, b.at(k * 16 + lane % 16, n * 2 + lane / 16));
  }
}

// The sum of the products of the numbers in two words.
template <class T>
PK_DEVICE float dot(uint32_t x, uint32_t y) {
  if constexpr (T::halves == 2) {
    return __uint_as_float(x) * __uint_as_float(y);
  } else {
    return T::low(x) * T::low(y) + T::high(x) * T::high(y);
  }
}

// Columns 8 n + 2t and 8 n + 2t + 1 of row `row` of a tile: the lane's own two numbers.
template <class T, int Width>
PK_DEVICE void store_pair(const Tile<Width>& to, int row, int n, float low, float high) {
  const int t = threadIdx.x % 4;
  if constexpr (T::halves == 2) {
    const uint32_t at = to.at(row, n * 2 + t / 2) + t % 2 * 8, odd = row & 1;  // neighbours take turns: other banks
    store_shared(at + 4 * odd, __float_as_uint(odd ? high : low));
    store_shared(at + 4 - 4 * odd, __float_as_uint(odd ? low : high));
  } else {
    const uint32_t at = to.at(row, n % 8) + n / 8 * 128;  // a constant behind few addresses, for few registers
    store_shared(at + t * 4, T::pack(low, high));
  }
}

// sum[rows of weights, D] += weights b, weights[rows, rows of b].
template <class T, int D, int Blocks, int Columns>
PK_DEVICE void add_weighted(Fragments<Blocks, D>& sum, const Fragments<Blocks, Columns>& weights,
                            const TileOf<T, D>& b) {
#pragma unroll
  for (int k = 0; k < Columns / T::columns; ++k) {
    uint32_t x[Blocks][4];
#pragma unroll
    for (int m = 0; m < Blocks; ++m) as_operand<T>(x[m], weights[m], k);
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      uint32_t y[4];
      load_across<T>(y, b, k, n);
#pragma unroll
      for (int m = 0; m < Blocks; ++m) {
        T::multiply_add(sum[m][2 * n], x[m], y[0], y[1]);
        T::multiply_add(sum[m][2 * n + 1], x[m], y[2], y[3]);
      }
    }
  }
}

}  // namespace cuda
}  // namespace pkernels
