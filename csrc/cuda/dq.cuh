// The gradient of queries, and that of the queries of a Relative, a CTA per tile of them: it visits
// keys as the forward does. It also writes delta, which the other passes read.
#pragma once

#include "backward.cuh"

namespace pkernels {
namespace cuda {

template <class T, class Over>
PK_DEVICE void set_dq_plan(BackwardPlan<Over>& plan, const Backward& f, int own, int other) {
  const Place x = Over::place_queries(f.call, own);
  plan.place = x;
  if (x.tile.count == 0) return;
  Over::visit_keys(plan.visits, f.call, x, other);
  plan.own = queries_of<T>(f, x, x.head), plan.other = keys_of<T>(f, x, x.head / f.call.problem.group());
}

template <class T, int D, Bias B, class Over>
struct QueryPass : BackwardPass<T, D, B, Over> {
  using Pass = BackwardPass<T, D, B, Over>;
  using Shape = typename Pass::Shape;
  using Pass::f, Pass::plan, Pass::row, Pass::own, Pass::other, Pass::window;
  using typename Pass::Rows;

  // The sums of the warp's rows: dQ, and that of a Relative.
  struct Sums {
    Fragments<1, D> dq, dquery;
  };

  // Starts to load K and V of visited tile t, and the rows of the table that it meets.
  PK_DEVICE void fetch(int t) const {
    if (t < plan.visits.count()) {
      const Place& x = plan.place;
      int m;
      const Segment& s = plan.visits.at(t, Shape::other, m);
      const int first = s.first + m * s.step;
      this->load_other(t % 2, plan.other, first, s.step, s.count - m);
      if (Shape::relative) {
        this->load_window(t % 2, x.head, x.tile.first + (Shape::own - 1) * s.step, first, s.step);
      }
    }
    commit_copies();
  }

  // Loads dO, and O where Q will be, for delta of the lane's two rows; then starts to load Q.
  PK_DEVICE void start(float (&lse)[2], float (&delta)[2]) const {
    const Place& x = plan.place;
    const QueryTile& tile = x.tile;
    const int64_t storage = f.call.problem.storage(x.sequence), rows = x.queries.first + tile.first;
    const Rows outs = own(0), douts = own(1);
    const Lines from = lines_of(f.out, storage, x.head, x.queries.first, f.call.problem.dv, T::halves);
    outs.template load<Shape::own, Shape::threads>(from, tile.first, tile.step, tile.count);
    douts.template load<Shape::own, Shape::threads>(plan.own.b, tile.first, tile.step, tile.count);
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
      for (int i = 0; i < Rows::chunks / 4; ++i) {
        const int chunk = (lane % 4 + (lane / 4 + i) * 4) % Rows::chunks;
        const uint4 x4 = load_shared(douts.at(c, chunk)), y4 = load_shared(outs.at(c, chunk));
        const uint32_t x[4] = {x4.x, x4.y, x4.z, x4.w}, y[4] = {y4.x, y4.y, y4.z, y4.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) sum += dot<T>(x[w], y[w]);
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
    own(0).template load<Shape::own, Shape::threads>(plan.own.a, tile.first, tile.step, tile.count);
    if (Shape::relative) {
      own(2).template load<Shape::own, Shape::threads>(this->lines_of_asking(x.head), tile.first, tile.step,
                                                       tile.count);
    }
  }

  PK_DEVICE void gather(Sums& sums, const float (&lse)[2], const float (&delta)[2], bool careful) const {
    const Problem& p = f.call.problem;
    const Place& x = plan.place;
    const Dropout dropout = dropout_of(f.call, x.head, x.sequence);
    clear(sums.dq);
    if (Shape::relative) clear(sums.dquery);
    fetch(0);
    for (int t = 0; t < plan.visits.count(); ++t) {
      wait_for_copies<0>();
      __syncthreads();
      fetch(t + 1);
      Fragments<1, Shape::other> s = {};
      multiply_rows<T, D, 1, Shape::other>(s, own(0), row, other(t % 2, 0));
      if (Shape::relative) add_relative(s[0], met(t % 2));
      int m;
      const Segment& segment = plan.visits.at(t, Shape::other, m);
      const int rows = static_cast<int>(x.tile.count);
      const Pairs<false> pairs = pairs_of<false>(x.tile, segment);
      to_weights<T, B, Shape::other>(
          s, p, x.sequence, x.head, pairs, row, m, lse, [&](int c, int o) { return c < rows && o < segment.count; },
          Over::counts ? segment.added : 0,
          [&](Fragments<1, Shape::other>& weights) {
            if (!is_full(segment, rows, m, Shape::other)) mask<1, Shape::other>(weights, 0, segment, row, m);
          });
      Fragments<1, Shape::other> dp = {};
      multiply_rows<T, D, 1, Shape::other>(dp, own(1), row, other(t % 2, 1));
      if (careful || dropout.threshold > 0) {
        add_up(sums, s, dp, pairs, m, t % 2, delta, dropout, careful);
      } else {
        add_up(sums, s, dp, pairs, m, t % 2, delta, no_dropout(), false);
      }
    }
    wait_for_copies<0>();
  }

  PK_DEVICE void add_up(Sums& sums, Fragments<1, Shape::other>& s, Fragments<1, Shape::other>& dp,
                        const Pairs<false>& pairs, int m, int number, const float (&delta)[2], const Dropout& dropout,
                        bool careful) const {
    differentiate<Shape::other>(s, dp, dropout, pairs, row, m, delta, careful);
    add<T, D, Shape::other>(sums.dq, s, other(number, 0), careful);
    if (Shape::relative) {
      Fragments<1, Shape::other + 16> shifted;
      shift_back<Shape::other>(shifted[0], s[0]);
      add<T, D, Shape::other + 16>(sums.dquery, shifted, met(number), careful);
    }
  }

  // The rows of the table that the warp's own ones meet.
  PK_DEVICE Rows met(int number) const { return window(number).from(Shape::own - 16 - row); }

  PK_DEVICE void add_relative(float (&s)[Shape::other / 8][4], const Rows& table) const {
    Fragments<1, Shape::other + 16> products = {};
    multiply_rows<T, D, 1, Shape::other + 16>(products, own(2), row, table);
    add_shifted<Shape::other>(s, products[0]);
  }

  PK_DEVICE void run() const {
    const Place& x = plan.place;
    const Problem& p = f.call.problem;
    const int64_t storage = p.storage(x.sequence);
    float lse[2], delta[2];
    Sums sums;
    start(lse, delta);
    for (bool careful = false;; careful = true) {
      gather(sums, lse, delta, careful);
      const bool finite = all_finite<1, D>(sums.dq) && (!Shape::relative || all_finite<1, D>(sums.dquery));
      if (!__syncthreads_or(!careful && !finite)) break;
    }
    write_rows<T, D>(sums.dq, p.scale, own(0), row, lines_of(f.dq, storage, x.head, x.queries.first, p.d, T::halves),
                     x.tile);
    if (Shape::relative && f.dquery.data) {
      write_rows<T, D>(sums.dquery, p.scale, own(2), row,
                       lines_of(f.dquery, storage, x.head, x.queries.first, p.dr, T::halves), x.tile);
    }
  }
};

template <class T, int D, Bias B, class Over = OverBandOf<B>>
PK_DEVICE void dq(const Backward& f) {
  using Shape = BackwardShape<D * T::halves, B>;
  extern __shared__ uint4 memory[];
  __shared__ BackwardPlan<Over> plan;
  if (threadIdx.x == 0) set_dq_plan<T>(plan, f, Shape::own, Shape::other);
  __syncthreads();
  if (plan.place.tile.count == 0) return;
  QueryPass<T, D, B, Over>{{f, plan, shared_address(memory)}}.run();
}

}  // namespace cuda
}  // namespace pkernels
