// The online softmax of the rows of a tile (see csrc/cpu/forward.h).
#pragma once

#include "scores.cuh"

namespace pkernels {
namespace cuda {

template <int Blocks, int D>
struct Running {
  float top[Blocks][2], total[Blocks][2];  // maxima of products, or nearly; the lane's share of the sums
  Fragments<Blocks, D> acc;

  PK_DEVICE void start() {
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) top[b][half] = -INFINITY, total[b][half] = 0;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[b][n][e] = 0;
      }
    }
  }

  // s becomes P.
  template <int Columns>
  PK_DEVICE void soften(Fragments<Blocks, Columns>& s, float unit) {
    raise<Columns>(s, unit, [&](int b, int half, float alpha) { rescale(b, half, alpha); });
    weigh<Columns>(s, unit);
  }

  template <int Columns>
  PK_DEVICE void weigh(Fragments<Blocks, Columns>& s, float unit) {
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float pivot = pivot_of(top[b][half], unit);
        float sum[2] = {};
#pragma unroll
        for (int n = 0; n < Columns / 8; ++n) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& x = s[b][n][2 * half + e];
            x = exp2(x * unit - pivot);
            sum[e] += x;
          }
        }
        total[b][half] += sum[0] + sum[1];
      }
    }
  }

  // Maxima follow the products only once these are 2^8 above them, as in FlashAttention-4: weights may well be that
  // large, and most tiles leave everything as it is. Where they do, f(b, half, alpha) for the rows whose sums are to be
  // multiplied by alpha; returns whether.
  template <int Columns, class F>
  PK_DEVICE bool raise(const Fragments<Blocks, Columns>& s, float unit, F f) {
    float highest[Blocks][2];
    bool above = false;
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& x = highest[b][half];
        x = s[b][0][2 * half];
#pragma unroll
        for (int n = 0; n < Columns / 8; ++n) x = fmaxf(x, fmaxf(s[b][n][2 * half], s[b][n][2 * half + 1]));
        above |= (x - top[b][half]) * unit > 8;
      }
    }
    if (!__any_sync(~0u, above)) return false;
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float now = fmaxf(top[b][half], row_maximum(highest[b][half]));
        const float alpha = exp2(top[b][half] * unit - pivot_of(now, unit));
        top[b][half] = now, total[b][half] *= alpha;
        f(b, half, alpha);
      }
    }
    return true;
  }

  PK_DEVICE void rescale(int b, int half, float alpha) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) acc[b][n][2 * half] *= alpha, acc[b][n][2 * half + 1] *= alpha;
  }

  // What a row's scores are measured from, in units of log 2: also where it has no key so far.
  static PK_DEVICE float pivot_of(float top, float unit) { return top == -INFINITY ? 0.0f : top * unit; }

  // Natural log-sum-exp of a row, -inf where it has no key.
  static PK_DEVICE float log_sum(float top, float total, float unit) { return (top * unit + log2(total)) * ln2; }
};

}  // namespace cuda
}  // namespace pkernels
