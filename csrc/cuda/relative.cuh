// A bias of a query times a row of a table for each distance (Dai et al. 2019, arXiv:1901.02860,
// appendix B): the product with rows of the table first, as far apart as queries and keys are, on the
// tensor cores; then each row of it is shifted by its number, in registers. A shift is a turn of eight numbers among
// the lanes that hold them, and a choice between a block and the next one: a lane knows which of the two the one that
// it sends to asks for.
#pragma once

#include "tile.cuh"

namespace pkernels {
namespace cuda {

// Rows first, first + step, ... of a head's table, which has `rows` of them; zeros where there are none.
template <int Count, int Threads, int D>
PK_DEVICE void load_table(const Tile<D>& to, const Lines& table, int first, int step, int64_t rows) {
  const Within there = within(first, step, static_cast<int>(rows));
  to.template load<Count, Threads>(table, first, step, there.exist, there.begin);
}

// s[r][c] += t[r][c - r + 15]: t is of the 16 queries that own the rows, and of the rows of a table
// that they and the keys c meet.
template <int Columns>
PK_DEVICE void add_shifted(float (&s)[Columns / 8][4], const float (&t)[Columns / 8 + 2][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, x = lane % 4 * 2;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const bool odd = (e + g + 1) % 2 != 0;  // of the two columns of a lane, the one that is asked for
    const bool next = x + odd < 7 - g;
    const int from = g * 4 + (x + e + 7 - g) % 8 / 2;
#pragma unroll
    for (int n = 0; n < Columns / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float near = odd ? t[n + 1 - half][2 * half + 1] : t[n + 1 - half][2 * half];
        const float far = odd ? t[n + 2 - half][2 * half + 1] : t[n + 2 - half][2 * half];
        s[n][2 * half + e] += __shfl_sync(~0u, next ? far : near, from);
      }
    }
  }
}

// The inverse: t[r][u] = s[r][u + r - 15], 0 where there is no such column.
template <int Columns>
PK_DEVICE void shift_back(float (&t)[Columns / 8 + 2][4], const float (&s)[Columns / 8][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, x = lane % 4 * 2;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const bool odd = (e + g + 1) % 2 != 0;
    const bool next = x + odd <= g;
    const int from = g * 4 + (x + e + g + 1) % 8 / 2;
#pragma unroll
    for (int m = 0; m < Columns / 8 + 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        auto of = [&](int n) {
          return n < 0 || n >= Columns / 8 ? 0.0f : odd ? s[n < 0 ? 0 : n][2 * half + 1] : s[n < 0 ? 0 : n][2 * half];
        };
        const float near = of(m + half - 2), far = of(m + half - 1);
        t[m][2 * half + e] = __shfl_sync(~0u, next ? far : near, from);
      }
    }
  }
}

// s[r][8 n + o] += t[r - 8 n - o + 15][8 n + o], n = 0, 1: rows of t are those of a table, columns queries, and the
// keys r own the rows of s, of which these are two blocks of columns.
PK_DEVICE void add_shifted_rows(float (&s0)[4], float (&s1)[4], const Fragments<2, 16>& t) {
  const int lane = threadIdx.x % 32, g = lane / 4, x = lane % 4 * 2;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const bool next = g + x + e < 7;
    const int from = (g + 7 - x - e) % 8 * 4 + lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      auto group = [&](int n, int i) { return t[i / 2][n][i % 2 * 2 + e]; };
      s0[2 * half + e] += __shfl_sync(~0u, next ? group(0, half + 2) : group(0, half + 1), from);
      s1[2 * half + e] += __shfl_sync(~0u, next ? group(1, half + 1) : group(1, half), from);
    }
  }
}

// d[u][o] = s[u + o][o] of 16 diagonals and 16 columns.
PK_DEVICE void to_diagonals(Fragments<1, 16>& d, const Fragments<2, 16>& s) {
  const int lane = threadIdx.x % 32, g = lane / 4, x = lane % 4 * 2;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const bool next = g < x + e;
    const int from = (g + x + e) % 8 * 4 + lane % 4;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = half + n;
        const float near = s[i / 2][n][i % 2 * 2 + e], far = s[(i + 1) / 2][n][(i + 1) % 2 * 2 + e];
        d[0][n][2 * half + e] = __shfl_sync(~0u, next ? far : near, from);
      }
    }
  }
}

}  // namespace cuda
}  // namespace pkernels
