// The gradient of queries, a CTA per tile of them: it visits keys as the forward does. It also
// writes delta, which the pass over keys reads.
#pragma once

#include "backward.cuh"

namespace pkernels {
namespace cuda {

template <class Over>
PK_DEVICE void set_dq_plan(BackwardPlan<Over>& plan, const Backward& f, int own, int other) {
  const Problem& p = f.call.problem;
  const Place x = Over::place_queries(f.call, own);
  plan.place = x;
  if (x.tile.count == 0) return;
  Over::visit_keys(plan.visits, f.call, x, other);
  plan.a = lines_of(f.q, p.storage(x.sequence), x.head, x.queries.first, p.d);
  plan.b = lines_of(f.dout, p.storage(x.sequence), x.head, x.queries.first, p.dv);
}

template <class T, int D, Bias B, class Over>
struct QueryPass {
  using Shape = BackwardShape<D>;

  const Backward& f;
  const BackwardPlan<Over>& plan;
  const Tile<D> queries, douts;
  const int row = threadIdx.x / 32 * 16;  // the warp's first one

  PK_DEVICE Tile<D> slot(int number, int part) const {
    return {douts.address + Shape::own_bytes + number * Shape::slot + part * Shape::other_bytes};
  }

  // Starts to load K and V of visited tile t.
  PK_DEVICE void fetch(int t) const {
    if (t < plan.visits.count()) {
      const Place& x = plan.place;
      const Problem& p = f.call.problem;
      const int64_t storage = p.storage(x.sequence), head = x.head / p.group();
      int m;
      const Segment& s = plan.visits.at(t, Shape::other, m);
      const int first = s.first + m * s.step, exist = s.count - m;
      slot(t % 2, 0).template load<Shape::other, Shape::threads>(lines_of(f.k, storage, head, x.keys.first, p.d), first,
                                                                 s.step, exist);
      slot(t % 2, 1).template load<Shape::other, Shape::threads>(lines_of(f.v, storage, head, x.keys.first, p.dv),
                                                                 first, s.step, exist);
    }
    commit_copies();
  }

  // Loads Q and dO, and O where tiles of keys will be; delta of the lane's two rows.
  PK_DEVICE void start(float (&lse)[2], float (&delta)[2]) const {
    const Place& x = plan.place;
    const QueryTile& tile = x.tile;
    const int64_t storage = f.call.problem.storage(x.sequence), rows = x.queries.first + tile.first;
    const Tile<D> outs = slot(0, 0);
    queries.template load<Shape::own, Shape::threads>(plan.a, tile.first, tile.step, tile.count);
    douts.template load<Shape::own, Shape::threads>(plan.b, tile.first, tile.step, tile.count);
    outs.template load<Shape::own, Shape::threads>(lines_of(f.out, storage, x.head, x.queries.first, f.call.problem.dv),
                                                   tile.first, tile.step, tile.count);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int c = row_of(row, 0, 2 * half);
      const int64_t at = static_cast<int64_t>(c) * tile.step;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < D / 32; ++i) {
        const int chunk = (lane % 4 + (lane / 4 + i) * 4) % (D / 8);
        const uint4 x4 = load_shared(douts.at(c, chunk)), y4 = load_shared(outs.at(c, chunk));
        const uint32_t x[4] = {x4.x, x4.y, x4.z, x4.w}, y[4] = {y4.x, y4.y, y4.z, y4.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) sum += T::low(x[w]) * T::low(y[w]) + T::high(x[w]) * T::high(y[w]);
      }
      sum = row_sum(sum);
      const bool there = c < tile.count;
      if (there && f.dlse.data) {
        const float* dlse = static_cast<const float*>(f.dlse.data) + storage * f.dlse.batch + x.head * f.dlse.head;
        sum -= dlse[(rows + at) * f.dlse.row];
      }
      if (there && lane % 4 == 0) numbers_of(f.delta, storage, x.head, rows)[at] = sum;
      delta[half] = sum;
      lse[half] = there ? lse_of(numbers_of(f.lse, storage, x.head, rows)[at]) : 0.0f;
    }
    __syncthreads();
  }

  PK_DEVICE void gather(Fragments<1, D>& dq, const float (&lse)[2], const float (&delta)[2], bool careful) const {
    const Problem& p = f.call.problem;
    const Place& x = plan.place;
    const Dropout dropout = dropout_of(f.call, x.head, x.sequence);
    const float unit = unit_of<B>(p);
    clear(dq);
    fetch(0);
    for (int t = 0; t < plan.visits.count(); ++t) {
      wait_for_copies<0>();
      __syncthreads();
      fetch(t + 1);
      Fragments<1, Shape::other> s = {}, dp = {};
      multiply_rows<T, D, 1, Shape::other>(s, queries, row, slot(t % 2, 0));
      int m;
      const Segment& segment = plan.visits.at(t, Shape::other, m);
      const Pairs<false> pairs = pairs_of<false>(x.tile, segment);
      const int rows = static_cast<int>(x.tile.count);
      add_bias<T, B, false, 1, Shape::other>(s, p, x.sequence, x.head, pairs, row, m,
                                             [&](int c, int o) { return c < rows && o < segment.count; });
      if (Over::counts) add_to_all<1, Shape::other>(s, segment.added / unit);
#pragma unroll
      for (int i = 0; i < Shape::other / 2; ++i) {
        float& w = s[0][i / 4][i % 4];
        w = weight_of<B>(w, unit, lse[i / 2 % 2]);
      }
      if (!is_full(segment, rows, m, Shape::other)) mask<1, Shape::other>(s, 0, segment, row, m);
      multiply_rows<T, D, 1, Shape::other>(dp, douts, row, slot(t % 2, 1));
      if (p.threshold > 0) drop<1, Shape::other>(dp, dropout, pairs, row, m);
#pragma unroll
      for (int i = 0; i < Shape::other / 2; ++i) {
        float& w = s[0][i / 4][i % 4];
        w = gradient_of(w, dp[0][i / 4][i % 4] * p.keep_scale, delta[i / 2 % 2], careful);
      }
      add<T, D, Shape::other>(dq, s, slot(t % 2, 0), careful);
    }
    wait_for_copies<0>();
  }

  PK_DEVICE void run() const {
    const Place& x = plan.place;
    const Problem& p = f.call.problem;
    float lse[2], delta[2];
    Fragments<1, D> dq;
    start(lse, delta);
    for (bool careful = false;; careful = true) {
      gather(dq, lse, delta, careful);
      if (!__syncthreads_or(!careful && !all_finite<1, D>(dq))) break;
    }
    write_rows<T, D>(dq, p.scale, queries, row, lines_of(f.dq, p.storage(x.sequence), x.head, x.queries.first, p.d),
                     x.tile);
  }
};

template <class T, int D, Bias B, class Over = OverBand>
PK_DEVICE void dq(const Backward& f) {
  using Shape = BackwardShape<D>;
  extern __shared__ uint4 memory[];
  __shared__ BackwardPlan<Over> plan;
  if (threadIdx.x == 0) set_dq_plan(plan, f, Shape::own, Shape::other);
  __syncthreads();
  if (plan.place.tile.count == 0) return;
  const uint32_t start = shared_address(memory);
  QueryPass<T, D, B, Over>{f, plan, {start}, {start + Shape::own_bytes}}.run();
}

}  // namespace cuda
}  // namespace pkernels
