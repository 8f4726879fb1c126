// The gradient of queries over the chunks of a round; see backward.cuh and buckets_forward.cuh.
#pragma once

#include "backward.cuh"
#include "gather.cuh"

namespace pkernels {
namespace cuda {

template <int Width, Bias B = Bias::none>
using BucketsQueryShape = GatherShape<Width, 2, 0>;

template <class T, int D>
struct BucketsQueryPass {
  using Shape = BucketsQueryShape<D * T::halves>;

  const BucketsBackward& f;
  const BucketPlan& plan;
  const Gathering<T, D, Shape> rows;
  const int row = threadIdx.x / 32 * 16;  // the warp's first one

  PK_DEVICE void gather(Fragments<1, D>& dq, bool careful) const {
    const Problem& p = f.call.problem;
    const Buckets& b = p.buckets;
    const float unit = p.scale * log2e;
    const Dropout dropout = dropout_of(f.call, plan.head, plan.sequence);
    clear(dq);
    rows.start(no_query, no_key);
    rows.load_own(0, lines_of(f.q, plan.sequence, plan.head, 0, p.d, T::halves));
    rows.load_own(1, lines_of(f.dout, plan.sequence, plan.head, 0, p.dv, T::halves));
    rows.fetch_keys(0, f);
    float lse[2], delta[2], own[2] = {};
    rows.own_numbers(lse, f.lse, row);
    rows.own_numbers(delta, f.delta, row);
    if (b.given) rows.own_numbers(own, f.own, row);
    for (int t = 0; t < rows.tiles(); ++t) {
      wait_for_copies<0>();
      __syncthreads();
      rows.fetch_keys(t + 1, f);
      const int next = rows.entry(t + 2, no_key);
      Fragments<1, Shape::other> s = {}, dp = {};
      multiply_rows<T, D, 1, Shape::other>(s, rows.own(0), row, rows.slot(t, 0));
      rows.for_each(t, row, [&](int n, int e, int i, int j) {
        const float score = b.given && i == j ? own[e / 2] * log2e : s[0][n][e] * unit;
        s[0][n][e] = sees(b.causal, i, j) ? exp2(score - lse[e / 2] * log2e) : 0.0f;
      });
      multiply_rows<T, D, 1, Shape::other>(dp, rows.own(1), row, rows.slot(t, 1));
      const uint32_t stay = p.threshold > 0 ? rows.template survivors<false>(dropout, t, row) : ~0u;
      rows.for_each(t, row, [&](int n, int e, int i, int j) {
        const float of_weight = stay >> (4 * n + e) & 1 ? dp[0][n][e] * p.keep_scale : 0.0f;
        const float ds = gradient_of(s[0][n][e], of_weight, delta[e / 2], careful);
        s[0][n][e] = b.given && i == j ? 0.0f : ds;
      });
      add<T, D, Shape::other>(dq, s, rows.slot(t, 0), careful);
      rows.note(t + 2, next);
    }
    wait_for_copies<0>();
  }

  PK_DEVICE void run() const {
    Fragments<1, D> dq;
    for (bool careful = false;; careful = true) {
      gather(dq, careful);
      if (!__syncthreads_or(!careful && !all_finite<1, D>(dq))) break;
    }
    rows.add_rows(dq, f.call.problem.scale, f.dq, f.dq.row, row);
  }
};

template <class T, int D, Bias>
PK_DEVICE void buckets_dq(const BucketsBackward& f) {
  extern __shared__ uint4 memory[];
  __shared__ BucketPlan plan;
  const Buckets& b = f.call.problem.buckets;
  if (threadIdx.x == 0)
    set_bucket_plan(plan, f.call, f.round, b.before, b.after, BucketsQueryShape<D * T::halves>::own);
  __syncthreads();
  BucketsQueryPass<T, D>{f, plan, {plan, shared_address(memory)}}.run();
}

}  // namespace cuda
}  // namespace pkernels
