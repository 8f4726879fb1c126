// What both passes of the backward share (Dao et al. 2022, arXiv:2205.14135, appendix B; the order
// of pkernels/triton/band_backward.py):
//
//   P  = exp(S - lse)              dP = (dO Vᵀ) ∘ Z        delta = rowsum(dO ∘ O) - dlse
//   dS = P ∘ (dP - delta)          dQ = scale dS K
//   dK = scale dSᵀ Q               dV = (P ∘ Z)ᵀ dO
//
// A warp owns 16 rows of a tile; tiles of the other side come in pairs, K and V or Q and dO.
#pragma once

#include "careful.cuh"
#include "philox.cuh"

namespace pkernels {
namespace cuda {

template <int D>
struct BackwardShape {
  static constexpr int warps = 4, threads = 32 * warps, own = 16 * warps, other = D == 64 ? 64 : 32, slots = 2;
  static constexpr int at_once = 8 / warps;  // CTAs of a multiprocessor, at least
  static constexpr int own_bytes = own * D * 2, other_bytes = other * D * 2;
  static constexpr int slot = 2 * other_bytes + 2 * other * 4;  // two tiles, and two numbers for each of their rows
  static constexpr int shared = 2 * own_bytes + slots * slot;
};

// What all threads of a CTA know of its work.
template <class Over>
struct BackwardPlan {
  Place place;
  typename Over::Visits visits;
  Lines a, b;  // of the tile itself: Q and dO, or K and V
};

// A log-sum-exp as scores count, finite where a row has no key.
PK_DEVICE float lse_of(float lse) { return lse == -INFINITY ? 0.0f : lse * log2e; }

// exp(s - lse), 0 for a pair that a bias hides, whatever its row's lse is.
template <Bias B>
PK_DEVICE float weight_of(float s, float unit, float lse) {
  return B == Bias::dense && s == -INFINITY ? 0.0f : exp2(s * unit - lse);
}

// dS; if `careful`, a weight of zero hides what is not finite.
PK_DEVICE float gradient_of(float p, float dp, float delta, bool careful) {
  return careful && p == 0 ? 0.0f : p * (dp - delta);
}

template <int N>
PK_DEVICE void clear(float (&x)[1][N][4]) {
#pragma unroll
  for (int i = 0; i < N * 4; ++i) x[0][i / 4][i % 4] = 0;
}

// The warp's rows of a sum, times `factor`, by way of a tile that no other warp uses these rows of.
template <class T, int D>
PK_DEVICE void write_rows(const Fragments<1, D>& sum, float factor, const Tile<D>& by, int row, const Lines& to,
                          const QueryTile& tile) {
  const int lane = threadIdx.x % 32;
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const float* x = &sum[0][n][2 * half];
      store_shared(by.at(row_of(row, 0, 2 * half), n) + lane % 4 * 4, T::pack(x[0] * factor, x[1] * factor));
    }
  }
  __syncwarp();
  by.template store<16>(to, row, tile.first, tile.step, tile.count);
}

}  // namespace cuda
}  // namespace pkernels
