// Values that are not finite. A weight of zero does not hide a NaN from a product: 0 NaN = NaN. So
// a CTA whose result is not finite works again, carefully: products of what is finite, and NaN
// where a weight that is not zero meets something else.
#pragma once

#include "tile.cuh"

namespace pkernels {
namespace cuda {

template <int Blocks, int D>
PK_DEVICE bool all_finite(const Fragments<Blocks, D>& x) {
  float sum = 0;
#pragma unroll
  for (int b = 0; b < Blocks; ++b) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum += x[b][n][e] * 0.0f;  // 0, or NaN for ever
    }
  }
  return sum == 0;
}

// sum += met lost, of zeros and ones: a single product of tf32 holds them.
template <class T>
PK_DEVICE void count(float (&sum)[4], const uint32_t (&met)[4], uint32_t lost0, uint32_t lost1) {
  if constexpr (T::halves == 2) {
    T::multiply_once(sum, met, lost0, lost1);
  } else {
    T::multiply_add(sum, met, lost0, lost1);
  }
}

// NaN to sums that a number which is not finite reaches; such numbers become zeros.
template <class T>
PK_DEVICE void mark(float (&left)[4], float (&right)[4], const uint32_t (&x)[4], uint32_t (&y)[4]) {
  const uint32_t met[4] = {T::nonzero(x[0]), T::nonzero(x[1]), T::nonzero(x[2]), T::nonzero(x[3])};
  uint32_t lost[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) lost[i] = T::unclean(y[i]), y[i] &= ~lost[i];
  float found[2][4] = {};
  count<T>(found[0], met, lost[0] & T::ones, lost[1] & T::ones);
  count<T>(found[1], met, lost[2] & T::ones, lost[3] & T::ones);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    left[e] = found[0][e] > 0 ? NAN : left[e];
    right[e] = found[1][e] > 0 ? NAN : right[e];
  }
}

// As add_weighted, 16 rows after another: it takes few registers of its own.
template <class T, int D, int Blocks, int Columns>
PK_DEVICE void add_carefully(Fragments<Blocks, D>& sum, const Fragments<Blocks, Columns>& weights,
                             const TileOf<T, D>& b) {
#pragma unroll
  for (int m = 0; m < Blocks; ++m) {
#pragma unroll
    for (int k = 0; k < Columns / T::columns; ++k) {
      uint32_t x[4];
      as_operand<T>(x, weights[m], k);
#pragma unroll
      for (int n = 0; n < D / 16; ++n) {
        uint32_t y[4], lost = 0;
        load_across<T>(y, b, k, n);
#pragma unroll
        for (int i = 0; i < 4; ++i) lost |= T::unclean(y[i]);
        if (__any_sync(~0u, lost)) mark<T>(sum[m][2 * n], sum[m][2 * n + 1], x, y);
        T::multiply_add(sum[m][2 * n], x, y[0], y[1]);
        T::multiply_add(sum[m][2 * n + 1], x, y[2], y[3]);
      }
    }
  }
}

template <class T, int D, int Columns, int Blocks>
PK_DEVICE void add(Fragments<Blocks, D>& sum, const Fragments<Blocks, Columns>& weights, const TileOf<T, D>& b,
                   bool careful) {
  if (careful) {
    add_carefully<T, D, Blocks, Columns>(sum, weights, b);
  } else {
    add_weighted<T, D, Blocks, Columns>(sum, weights, b);
  }
}

}  // namespace cuda
}  // namespace pkernels
