// The online softmax of the rows of a tile (see csrc/cpu/forward.h).
#pragma once

#include "scores.cuh"

namespace pkernels {
namespace cuda {

template <int Blocks, int D>
struct Running {
  float top[Blocks][2], total[Blocks][2];  // maxima of products; the lane's share of the sums
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
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float highest = top[b][half];
#pragma unroll
        for (int n = 0; n < Columns / 8; ++n) highest = fmaxf(highest, fmaxf(s[b][n][2 * half], s[b][n][2 * half + 1]));
        highest = row_maximum(highest);
        const float pivot = highest == -INFINITY ? 0.0f : highest * unit;  // of rows with no key so far
        const float alpha = exp2(top[b][half] * unit - pivot);
        top[b][half] = highest;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < Columns / 8; ++n) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            s[b][n][e] = exp2(s[b][n][e] * unit - pivot);
            sum += s[b][n][e];
          }
        }
        total[b][half] = total[b][half] * alpha + sum;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) acc[b][n][2 * half] *= alpha, acc[b][n][2 * half + 1] *= alpha;
      }
    }
  }

  // Natural log-sum-exp of a row, -inf where it has no key.
  static PK_DEVICE float log_sum(float top, float total, float unit) { return (top * unit + log2(total)) * ln2; }
};

}  // namespace cuda
}  // namespace pkernels
