// The gradients of keys and values over the chunks of a round, per query head: a tile of keys
// visits the chunks that see its own. Scores lie transposed; see dkv.cuh and buckets_forward.cuh.
#pragma once

#include "backward.cuh"
#include "gather.cuh"

namespace pkernels {
namespace cuda {

template <int Width, Bias B = Bias::none>
using BucketsKeyShape = GatherShape<Width, 2, 3>;

template <class T, int D>
struct BucketsKeyPass {
  using Shape = BucketsKeyShape<D * T::halves>;
  static constexpr int steps = D > 128 ? 4 : D / T::columns;  // of wide rows: what ptxas does not spill

  const BucketsBackward& f;
  const BucketPlan& plan;
  const Gathering<T, D, Shape> rows;
  const int row = threadIdx.x / 32 * 16;  // the warp's first one

  // Starts to load Q, dO, and lse, delta and own of tile t.
  PK_DEVICE void fetch(int t) const {
    if (t < rows.tiles()) {
      const Problem& p = f.call.problem;
      rows.load_other(t, 0, lines_of(f.q, plan.sequence, plan.head, 0, p.d, T::halves));
      rows.load_other(t, 1, lines_of(f.dout, plan.sequence, plan.head, 0, p.dv, T::halves));
      const int c = threadIdx.x % Shape::other, r = load_row(rows.list(t) + c * 4);
#pragma unroll
      for (int part = threadIdx.x / Shape::other; part < 3; part += Shape::threads / Shape::other) {
        const Rows& x = part == 0 ? f.lse : part == 1 ? f.delta : f.own;
        if (!x.data) continue;
        const float* from = numbers_of(x, plan.sequence, plan.head, 0);
        copy_number(rows.numbers(t, part) + c * 4, from + (plan.exists(r) ? r : 0), plan.exists(r));
      }
    }
    commit_copies();
  }

  template <bool OfKeys, bool OfValues>
  PK_DEVICE void gather(Fragments<1, D>& dk, Fragments<1, D>& dv, bool careful) const {
    const Problem& p = f.call.problem;
    if (OfKeys) clear(dk);
    if (OfValues) clear(dv);
    rows.start(no_key, no_query);
    rows.load_own(0, lines_of(f.k, plan.sequence, plan.head / p.group(), 0, p.d, T::halves));
    rows.load_own(1, lines_of(f.v, plan.sequence, plan.head / p.group(), 0, p.dv, T::halves));
    fetch(0);
    for (int t = 0; t < rows.tiles(); ++t) {
      wait_for_copies<0>();
      __syncthreads();
      fetch(t + 1);
      const int next = rows.entry(t + 2, no_query);
      Fragments<1, Shape::other> s = {}, dp = {};
      multiply_rows<T, D, 1, Shape::other, steps>(s, rows.own(0), row, rows.slot(t, 0));
      weigh(s, t);
      if (OfKeys) multiply_rows<T, D, 1, Shape::other, steps>(dp, rows.own(1), row, rows.slot(t, 1));
      differentiate(s, dp, t, careful);
      if (OfValues) add<T, D, Shape::other>(dv, s, rows.slot(t, 1), careful);
      if (OfKeys) add<T, D, Shape::other>(dk, dp, rows.slot(t, 0), careful);
      rows.note(t + 2, next);
    }
    wait_for_copies<0>();
  }

  // Products to weights.
  PK_DEVICE void weigh(Fragments<1, Shape::other>& s, int t) const {
    const Buckets& b = f.call.problem.buckets;
    const float unit = f.call.problem.scale * log2e;
    float2 lse, own = {};
    rows.for_each(t, row, [&](int n, int e, int j, int i) {
      if (e == 0) lse = load_two(rows.numbers(t, 0) + column_of(n, 0) * 4);
      if (e == 0 && b.given) own = load_two(rows.numbers(t, 2) + column_of(n, 0) * 4);
      const float score = b.given && i == j ? (e % 2 ? own.y : own.x) * log2e : s[0][n][e] * unit;
      s[0][n][e] = sees(b.causal, i, j) ? exp2(score - (e % 2 ? lse.y : lse.x) * log2e) : 0.0f;
    });
  }

  // dP to dS, and weights to those that stay.
  PK_DEVICE void differentiate(Fragments<1, Shape::other>& s, Fragments<1, Shape::other>& dp, int t,
                               bool careful) const {
    const Problem& p = f.call.problem;
    uint32_t stay = ~0u;
    if (p.threshold > 0) {
      stay = rows.template survivors<true>(dropout_of(f.call, plan.head, plan.sequence), t, row);
    }
    float2 delta;
    rows.for_each(t, row, [&](int n, int e, int j, int i) {
      if (e == 0) delta = load_two(rows.numbers(t, 1) + column_of(n, 0) * 4);
      const bool stays = stay >> (4 * n + e) & 1;
      const float weight = s[0][n][e], of_weight = stays ? dp[0][n][e] * p.keep_scale : 0.0f;
      const float ds = gradient_of(weight, of_weight, e % 2 ? delta.y : delta.x, careful);
      s[0][n][e] = stays ? weight : 0.0f;
      dp[0][n][e] = p.buckets.given && i == j ? 0.0f : ds;
    });
  }

  template <bool OfKeys, bool OfValues>
  PK_DEVICE void pass() const {
    const Problem& p = f.call.problem;
    Fragments<1, D> dk, dv;
    for (bool careful = false;; careful = true) {
      gather<OfKeys, OfValues>(dk, dv, careful);
      const bool finite = (!OfKeys || all_finite<1, D>(dk)) && (!OfValues || all_finite<1, D>(dv));
      if (!__syncthreads_or(!careful && !finite)) break;
    }
    if (OfKeys) rows.add_rows(dk, p.scale, f.dk, f.dk.row, row);
    if (OfValues) rows.add_rows(dv, p.keep_scale, f.dv, f.dv.row, row);
  }

  PK_DEVICE void run() const {
    if constexpr (D > 128) {  // the sums of both do not fit into registers
      pass<false, true>();
      __syncthreads();
      pass<true, false>();
    } else {
      pass<true, true>();
    }
  }
};

template <class T, int D, Bias>
PK_DEVICE void buckets_dkv(const BucketsBackward& f) {
  extern __shared__ uint4 memory[];
  __shared__ BucketPlan plan;
  const Buckets& b = f.call.problem.buckets;
  if (threadIdx.x == 0) set_bucket_plan(plan, f.call, f.round, b.after, b.before, BucketsKeyShape<D * T::halves>::own);
  __syncthreads();
  BucketsKeyPass<T, D>{f, plan, {plan, shared_address(memory)}}.run();
}

}  // namespace cuda
}  // namespace pkernels
