// What is added to the products of a tile, and what is masked: -inf.
#pragma once

#include "place.cuh"
#include "tile.cuh"

namespace pkernels {
namespace cuda {

constexpr float log2e = 1.4426950408889634f, ln2 = 0.6931471805599453f;

// Row c of a tile meets row m of a segment; which of them is the query depends on the pass.
template <bool OwnKeys>
struct Pairs {
  int own_first, own_step, first, step;

  PK_DEVICE int own(int c) const { return own_first + c * own_step; }
  PK_DEVICE int other(int m) const { return first + m * step; }
  PK_DEVICE int query(int c, int m) const { return OwnKeys ? other(m) : own(c); }
  PK_DEVICE int key(int c, int m) const { return OwnKeys ? own(c) : other(m); }
};

template <bool OwnKeys>
PK_DEVICE Pairs<OwnKeys> pairs_of(const QueryTile& tile, const Segment& segment) {
  return {static_cast<int>(tile.first), static_cast<int>(tile.step), segment.first, segment.step};
}

// The warp's rows of a tile start at `row`: block b, number e of lane 4g + t is row + 16 b + g + 8 (e / 2).
PK_DEVICE int row_of(int row, int block, int e) { return row + block * 16 + threadIdx.x % 32 / 4 + e / 2 * 8; }
// and column 8 n + 2t + e % 2.
PK_DEVICE int column_of(int n, int e) { return n * 8 + threadIdx.x % 4 * 2 + e % 2; }

// Over the four lanes that hold a row.
PK_DEVICE float row_maximum(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
PK_DEVICE float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// Whether scores are products alone, that of a Relative added to them.
template <Bias B>
constexpr bool scaled_later = B == Bias::none || B == Bias::relative;

// Scores count in units of log 2, so that the softmax is exp2 of a difference. Products alone stay
// what they are, `unit` of which make a score; it is positive, so that maxima stay maxima.
template <Bias B>
PK_DEVICE float unit_of(const Problem& p) {
  return scaled_later<B> ? fmaxf(fabsf(p.scale) * log2e, 1e-30f) : 1.0f;
}

PK_DEVICE float distance_at(const Problem& p, int64_t head, int query, int key) {
  const int64_t t = larger(0, smaller(key - query + p.zero, p.distance_width - 1));
  return p.distance[head * p.distance_head + t];
}

template <class T>
PK_DEVICE float dense_at(const Problem& p, int64_t sequence, int64_t head, int query, int key) {
  const int64_t at = sequence * p.dense_batch + head * p.dense_head + query * p.dense_row + key * p.dense_column;
  if constexpr (T::halves == 1) {
    if (p.dense_type != Type::f32) return T::low(static_cast<const uint16_t*>(p.dense)[at]);
  }
  return static_cast<const float*>(p.dense)[at];
}

// Products to scores; `there` says whether a pair of rows exists.
template <class T, Bias B, bool OwnKeys, int Blocks, int Columns, class F>
PK_DEVICE void add_bias(Fragments<Blocks, Columns>& s, const Problem& p, int64_t sequence, int64_t head,
                        const Pairs<OwnKeys>& pairs, int row, int m, F there) {
  if (scaled_later<B>) {
    if (p.scale >= 0) return;
#pragma unroll
    for (int i = 0; i < Blocks * Columns / 2; ++i) (&s[0][0][0])[i] = -(&s[0][0][0])[i];
    return;
  }
  const float scale = p.scale * log2e;
#pragma unroll
  for (int b = 0; b < Blocks; ++b) {
#pragma unroll
    for (int n = 0; n < Columns / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int c = row_of(row, b, e), o = m + column_of(n, e);
        float added = 0;
        if (there(c, o)) {
          const int i = pairs.query(c, o), j = pairs.key(c, o);
          added = B == Bias::distance ? distance_at(p, head, i, j) : dense_at<T>(p, sequence, head, i, j);
        }
        const float sum = s[b][n][e] * scale + added * log2e;
        s[b][n][e] = B == Bias::dense && added == -INFINITY ? added : sum;
      }
    }
  }
}

// The same number added to all scores of a tile.
template <int Blocks, int Columns>
PK_DEVICE void add_to_all(Fragments<Blocks, Columns>& s, float added) {
  if (added == 0) return;
#pragma unroll
  for (int i = 0; i < Blocks * Columns / 2; ++i) (&s[0][0][0])[i] += added;
}

// `hidden` in place of the pairs of a tile that are not kept.
template <int Blocks, int Columns>
PK_DEVICE void mask(Fragments<Blocks, Columns>& s, float hidden, const Segment& segment, int row, int m) {
#pragma unroll
  for (int b = 0; b < Blocks; ++b) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Bounds keep = kept(segment, row_of(row, b, 2 * half));
      const int low = keep.low - m, high = keep.high - m;
#pragma unroll
      for (int n = 0; n < Columns / 8; ++n) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          const int column = column_of(n, e);
          s[b][n][e] = column >= low && column <= high ? s[b][n][e] : hidden;
        }
      }
    }
  }
}

}  // namespace cuda
}  // namespace pkernels
