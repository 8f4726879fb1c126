// Forward over the chunks of a round, a CTA per tile of a chunk: the tile step of forward.cuh on
// rows that are gathered, and softmaxes that go on where earlier rounds left them.
#pragma once

#include "gather.cuh"
#include "softmax.cuh"

namespace pkernels {
namespace cuda {

template <int Width, Bias B = Bias::none>
using BucketsForwardShape = GatherShape<Width, 1, 0>;

template <class T, int D>
struct BucketsForwardPass {
  using Shape = BucketsForwardShape<D * T::halves>;
  using State = Running<1, D>;

  const BucketsForward& f;
  const BucketPlan& plan;
  const Gathering<T, D, Shape> rows;
  const int row = threadIdx.x / 32 * 16;  // the warp's first one

  // f(row, half, its sums) for the lane's rows.
  template <class F>
  PK_DEVICE void for_each_row(F what) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = rows.own_row(row_of(row, 0, 2 * half));
      if (!plan.exists(r)) continue;
      float* sums = static_cast<float*>(f.acc.data) + plan.sequence * f.acc.batch + plan.head * f.acc.head;
      what(r, half, sums + r * f.acc.row);
    }
  }

  PK_DEVICE void go_on(State& run) const {
    const float* top = numbers_of(f.top, plan.sequence, plan.head, 0);
    const float* total = numbers_of(f.total, plan.sequence, plan.head, 0);
    run.start();
    for_each_row([&](int r, int half, const float* sums) {
      run.top[0][half] = top[r];
      run.total[0][half] = threadIdx.x % 4 == 0 ? total[r] : 0.0f;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        if (column_of(n, 0) >= f.acc.row) continue;
        const float2 x = *reinterpret_cast<const float2*>(sums + column_of(n, 0));
        run.acc[0][n][2 * half] = x.x, run.acc[0][n][2 * half + 1] = x.y;
      }
    });
  }

  PK_DEVICE void leave(const State& run) const {
    float* top = numbers_of(f.top, plan.sequence, plan.head, 0);
    float* total = numbers_of(f.total, plan.sequence, plan.head, 0);
    const float sum[2] = {row_sum(run.total[0][0]), row_sum(run.total[0][1])};
    for_each_row([&](int r, int half, float* sums) {
      if (threadIdx.x % 4 == 0) top[r] = run.top[0][half], total[r] = sum[half];
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        if (column_of(n, 0) >= f.acc.row) continue;
        *reinterpret_cast<float2*>(sums + column_of(n, 0)) = {run.acc[0][n][2 * half], run.acc[0][n][2 * half + 1]};
      }
    });
  }

  PK_DEVICE void attend(State& run, bool careful) const {
    const Problem& p = f.call.problem;
    const Buckets& b = p.buckets;
    const float unit = p.scale * log2e, own = b.own * log2e;
    const Dropout dropout = dropout_of(f.call, plan.head, plan.sequence);
    rows.start(no_query, no_key);
    rows.load_own(0, lines_of(f.q, plan.sequence, plan.head, 0, p.d, T::halves));
    rows.fetch_keys(0, f);
    go_on(run);
    for (int t = 0; t < rows.tiles(); ++t) {
      wait_for_copies<0>();
      __syncthreads();
      rows.fetch_keys(t + 1, f);
      const int next = rows.entry(t + 2, no_key);
      Fragments<1, Shape::other> s = {};
      multiply_rows<T, D, 1, Shape::other>(s, rows.own(0), row, rows.slot(t, 0));
      rows.for_each(t, row, [&](int n, int e, int i, int j) {
        const float score = b.given && i == j ? own : s[0][n][e] * unit;
        s[0][n][e] = sees(b.causal, i, j) ? score : -INFINITY;
      });
      run.template soften<Shape::other>(s, 1.0f);
      if (p.threshold > 0) {
        const uint32_t stay = rows.template survivors<false>(dropout, t, row);
#pragma unroll
        for (int i = 0; i < Shape::other / 2; ++i) {
          if (!(stay >> i & 1)) s[0][i / 4][i % 4] = 0;
        }
      }
      add<T, D, Shape::other>(run.acc, s, rows.slot(t, 1), careful);
      rows.note(t + 2, next);
    }
    wait_for_copies<0>();
  }

  PK_DEVICE void run() const {
    State run;
    for (bool careful = false;; careful = true) {
      attend(run, careful);
      if (!__syncthreads_or(!careful && !all_finite<1, D>(run.acc))) break;
    }
    leave(run);
  }
};

template <class T, int D, Bias>
PK_DEVICE void buckets_forward(const BucketsForward& f) {
  extern __shared__ uint4 memory[];
  __shared__ BucketPlan plan;
  const Buckets& b = f.call.problem.buckets;
  if (threadIdx.x == 0)
    set_bucket_plan(plan, f.call, f.round, b.before, b.after, BucketsForwardShape<D * T::halves>::own);
  __syncthreads();
  BucketsForwardPass<T, D>{f, plan, {plan, shared_address(memory)}}.run();
}

}  // namespace cuda
}  // namespace pkernels
