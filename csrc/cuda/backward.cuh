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
#include "relative.cuh"

namespace pkernels {
namespace cuda {

// Of rows of `Width` words.
template <int Width, Bias B = Bias::none>
struct BackwardShape {
  static constexpr bool relative = B == Bias::relative;
  static constexpr int warps = Width > 128 ? 8 : 4, threads = 32 * warps, own = 16 * warps, slots = 2;
  static constexpr int other = (Width == 64 ? 64 : Width == 128 ? 32 : 16) / (relative ? 2 : 1);
  static constexpr int at_once = relative && Width > 64 ? 1 : 8 / warps;  // CTAs of a multiprocessor, at least
  static constexpr int window = relative ? own + other : 0;               // rows of a table that two tiles meet
  // Two tiles, the queries and the window of a Relative, and two numbers for each row.
  static constexpr int slot_rows = 2 * other + (relative ? other + window : 0), row_bytes = Width * 2;
  static constexpr int slot = slot_rows * row_bytes + 2 * other * 4;
  static constexpr int own_rows = (relative ? 3 : 2) * own;
  static constexpr int shared = own_rows * row_bytes + slots * slot;
};

// Where the rows of two tiles come from: K and V, or Q and dO.
struct Sources {
  Lines a, b;
};

template <class T>
PK_DEVICE Sources sources_of(const Problem& p, int64_t sequence, int64_t head, int64_t first, const Rows& a,
                             const Rows& b) {
  const int64_t storage = p.storage(sequence);
  return {lines_of(a, storage, head, first, p.d, T::halves), lines_of(b, storage, head, first, p.dv, T::halves)};
}

template <class T>
PK_DEVICE Sources queries_of(const Backward& f, const Place& x, int64_t head) {
  return sources_of<T>(f.call.problem, x.sequence, head, x.queries.first, f.q, f.dout);
}

template <class T>
PK_DEVICE Sources keys_of(const Backward& f, const Place& x, int64_t head) {
  return sources_of<T>(f.call.problem, x.sequence, head, x.keys.first, f.k, f.v);
}

template <int Width>
struct Tiles {
  Tile<Width> a, b;

  template <int Count, int Threads>
  PK_DEVICE void load(const Sources& from, int first, int step, int exist, int begin = 0) const {
    a.template load<Count, Threads>(from.a, first, step, exist, begin);
    b.template load<Count, Threads>(from.b, first, step, exist, begin);
  }
};

// What all threads of a CTA know of its work.
template <class Over>
struct BackwardPlan {
  Place place;
  typename Over::Visits visits;
  Sources own, other;  // other: K and V that queries visit
};

// A CTA's tiles, and how it takes part in a pass over the visits of its plan.
template <class T, int D, Bias B, class Over>
struct BackwardPass {
  using Shape = BackwardShape<D * T::halves, B>;
  using Rows = TileOf<T, D>;

  const Backward& f;
  const BackwardPlan<Over>& plan;
  const uint32_t memory;
  const int row = threadIdx.x / 32 * 16;  // the warp's first one

  PK_DEVICE Rows own(int part) const { return {memory + part * Shape::own * Shape::row_bytes}; }
  PK_DEVICE uint32_t slot(int number) const {
    return memory + Shape::own_rows * Shape::row_bytes + number * Shape::slot;
  }
  // Of a slot: two tiles, the window of a table, the queries of a Relative.
  PK_DEVICE Rows other(int number, int part) const { return {slot(number) + part * Shape::other * Shape::row_bytes}; }
  PK_DEVICE Rows window(int number) const { return other(number, 2); }
  PK_DEVICE Rows asking(int number) const { return window(number).from(Shape::window); }
  // lse (part 0) and delta (1) of its rows.
  PK_DEVICE uint32_t numbers(int number, int part) const {
    return slot(number) + Shape::slot_rows * Shape::row_bytes + part * Shape::other * 4;
  }

  PK_DEVICE void load_own() const {
    const QueryTile& tile = plan.place.tile;
    Tiles<D * T::halves>{own(0), own(1)}.template load<Shape::own, Shape::threads>(plan.own, tile.first, tile.step,
                                                                                   tile.count);
  }

  PK_DEVICE void load_other(int number, const Sources& from, int first, int step, int exist) const {
    Tiles<D * T::halves>{other(number, 0), other(number, 1)}.template load<Shape::other, Shape::threads>(from, first,
                                                                                                         step, exist);
  }

  // Rows of the table that a tile of queries and one of keys meet, from that of the last query and the first key on;
  // in both of them rows lie `step` apart.
  PK_DEVICE void load_window(int number, int64_t head, int64_t query, int64_t key, int step) const {
    const Problem& p = f.call.problem;
    load_table<Shape::window, Shape::threads>(window(number), lines_of(p.table, 0, head, 0, p.dr, T::halves),
                                              static_cast<int>(key - query + p.zero), step, p.table_rows);
  }

  PK_DEVICE Lines lines_of_asking(int64_t head) const {
    const Problem& p = f.call.problem;
    return lines_of(p.query, p.storage(plan.place.sequence), head, plan.place.queries.first, p.dr, T::halves);
  }
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

// s, the products of queries, which own the rows, and keys, becomes P. there(c, o) says whether a pair of rows exists;
// hide(s) puts 0 in place of weights that are not kept.
template <class T, Bias B, int Columns, class There, class Hide>
PK_DEVICE void to_weights(Fragments<1, Columns>& s, const Problem& p, int64_t sequence, int64_t head,
                          const Pairs<false>& pairs, int row, int m, const float (&lse)[2], There there, float to_all,
                          Hide hide) {
  const float unit = unit_of<B>(p);
  add_bias<T, B, false, 1, Columns>(s, p, sequence, head, pairs, row, m, there);
  if (to_all != 0) add_to_all<1, Columns>(s, to_all / unit);
#pragma unroll
  for (int i = 0; i < Columns / 2; ++i) {
    float& w = s[0][i / 4][i % 4];
    w = weight_of<B>(w, unit, lse[i / 2 % 2]);
  }
  hide(s);
}

// P becomes dS, of the products of dO and V.
template <int Columns>
PK_DEVICE void differentiate(Fragments<1, Columns>& s, Fragments<1, Columns>& dp, const Dropout& dropout,
                             const Pairs<false>& pairs, int row, int m, const float (&delta)[2], bool careful) {
  if (dropout.threshold > 0) drop<1, Columns>(dp, dropout, pairs, row, m);
#pragma unroll
  for (int i = 0; i < Columns / 2; ++i) {
    float& w = s[0][i / 4][i % 4];
    w = gradient_of(w, dp[0][i / 4][i % 4] * dropout.scale, delta[i / 2 % 2], careful);
  }
}

// Both, with products(dp) in between.
template <class T, Bias B, int Columns, class Products, class There, class Hide>
PK_DEVICE void to_gradients(Fragments<1, Columns>& s, const Problem& p, const Products& products,
                            const Dropout& dropout, int64_t sequence, int64_t head, const Pairs<false>& pairs, int row,
                            int m, const float (&lse)[2], const float (&delta)[2], There there, float to_all, Hide hide,
                            bool careful) {
  to_weights<T, B, Columns>(s, p, sequence, head, pairs, row, m, lse, there, to_all, hide);
  Fragments<1, Columns> dp = {};
  products(dp);
  differentiate<Columns>(s, dp, dropout, pairs, row, m, delta, careful);
}

// The warp's rows of a sum, times `factor`, by way of a tile that no other warp uses these rows of.
template <class T, int D>
PK_DEVICE void write_rows(const Fragments<1, D>& sum, float factor, const TileOf<T, D>& by, int row, const Lines& to,
                          const QueryTile& tile) {
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      const float* x = &sum[0][n][2 * half];
      store_pair<T>(by, row_of(row, 0, 2 * half), n, x[0] * factor, x[1] * factor);
    }
  }
  __syncwarp();
  by.template store<16>(to, row, tile.first, tile.step, tile.count);
}

}  // namespace cuda
}  // namespace pkernels
