// The gradients of keys and values, a CTA per tile of them, which visits the queries of every head
// of its group by the transposed band. Scores lie transposed: keys own the rows.
#pragma once

#include "backward.cuh"

namespace pkernels {
namespace cuda {

template <class T, class Over>
PK_DEVICE void set_dkv_plan(BackwardPlan<Over>& plan, const Backward& f, int own, int other) {
  const Place x = Over::place_keys(f.call, own);
  plan.place = x;
  if (x.tile.count == 0) return;
  Over::visit_queries(plan.visits, f.call, x, other);
  plan.own = keys_of<T>(f, x, x.head);
}

template <class T, int D, Bias B, class Over>
struct KeyPass : BackwardPass<T, D, B, Over> {
  using Pass = BackwardPass<T, D, B, Over>;
  using Shape = typename Pass::Shape;
  using Pass::f, Pass::plan, Pass::row, Pass::own, Pass::other, Pass::window, Pass::asking, Pass::numbers;
  // Of wide rows: what ptxas does not spill, tried out on each chip.
  static constexpr bool few = Shape::row_bytes == 512 && (D > 128 ? Over::counts || B == Bias::none : B != Bias::none);
  static constexpr bool crowded = Shape::row_bytes > 256;  // no registers are left for code without dropout
  static constexpr int steps = few ? 4 : D / T::columns;

  // Starts to load Q, dO, lse and delta of visit u: tile after tile of one head after another.
  PK_DEVICE void fetch(int u) const {
    const Problem& p = f.call.problem;
    const int group = static_cast<int>(p.group());
    if (u < plan.visits.count_of(group)) {
      const Place& x = plan.place;
      int t = u, m;
      const int member = plan.visits.head_of(t, group);
      const int64_t head = x.head * group + member;
      const Segment& s = plan.visits.at(t, Shape::other, m, member);
      const int first = s.first + m * s.step, exist = s.count - m;
      this->load_other(u % 2, queries_of<T>(f, x, head), first, s.step, exist);
      if (Shape::relative) {
        asking(u % 2).template load<Shape::other, Shape::threads>(this->lines_of_asking(head), first, s.step, exist);
        this->load_window(u % 2, head, first + (Shape::other - 1) * s.step, x.tile.first, s.step);
      }
      const int part = threadIdx.x / Shape::other, c = threadIdx.x % Shape::other;
      if (part < 2) {
        const float* from = numbers_of(part ? f.delta : f.lse, p.storage(x.sequence), head, x.queries.first);
        copy_number(numbers(u % 2, part) + c * 4, from + (c < exist ? first + static_cast<int64_t>(c) * s.step : 0),
                    c < exist);
      }
    }
    commit_copies();
  }

  template <bool OfKeys, bool OfValues>
  PK_DEVICE void gather(Fragments<1, D>& dk, Fragments<1, D>& dv, bool careful) const {
    const Problem& p = f.call.problem;
    const Place& x = plan.place;
    const float unit = unit_of<B>(p);
    const int group = static_cast<int>(p.group()), all = plan.visits.count_of(group);
    if (OfKeys) clear(dk);
    if (OfValues) clear(dv);
    this->load_own();
    fetch(0);
    for (int u = 0; u < all; ++u) {
      wait_for_copies<0>();
      __syncthreads();
      fetch(u + 1);
      int t = u, m;
      const int member = plan.visits.head_of(t, group);
      const int64_t head = x.head * group + member;
      Fragments<1, Shape::other> s = {}, dp = {};
      multiply_rows<T, D, 1, Shape::other, steps>(s, own(0), row, other(u % 2, 0));
      if (Shape::relative) add_relative(s[0], u % 2);
      const Segment& segment = plan.visits.at(t, Shape::other, m, member);
      const Pairs<true> pairs = pairs_of<true>(x.tile, segment);
      const int rows = static_cast<int>(x.tile.count);
      add_bias<T, B, true, 1, Shape::other>(s, p, x.sequence, head, pairs, row, m,
                                            [&](int c, int o) { return c < rows && o < segment.count; });
      const float added = Over::counts ? segment.added : 0.0f;
#pragma unroll
      for (int n = 0; n < Shape::other / 8; ++n) {
        const float2 lse = load_two(numbers(u % 2, 0) + column_of(n, 0) * 4);
#pragma unroll
        for (int e = 0; e < 4; ++e) s[0][n][e] = weight_of<B>(s[0][n][e], unit, lse_of(e % 2 ? lse.y : lse.x) - added);
      }
      if (!is_full(segment, rows, m, Shape::other)) mask<1, Shape::other>(s, 0, segment, row, m);
      if (OfKeys) multiply_rows<T, D, 1, Shape::other, steps>(dp, own(1), row, other(u % 2, 1));
      const Dropout dropout = dropout_of(f.call, head, x.sequence);
      if (crowded || careful || dropout.threshold > 0) {
        add_up<OfKeys, OfValues>(dk, dv, s, dp, pairs, m, u % 2, dropout, careful);
      } else {
        add_up<OfKeys, OfValues>(dk, dv, s, dp, pairs, m, u % 2, no_dropout(), false);
      }
    }
    wait_for_copies<0>();
  }

  PK_DEVICE void add_relative(float (&s)[Shape::other / 8][4], int number) const {
#pragma unroll
    for (int n = 0; n < Shape::other / 8; n += 2) {
      Fragments<2, 16> products = {};
      multiply_rows<T, D, 2, 16>(products, window(number), row + Shape::other - 16 - 8 * n, asking(number).from(8 * n));
      add_shifted_rows(s[n], s[n + 1], products);
    }
  }

  template <bool OfKeys, bool OfValues>
  PK_DEVICE void add_up(Fragments<1, D>& dk, Fragments<1, D>& dv, Fragments<1, Shape::other>& s,
                        Fragments<1, Shape::other>& dp, const Pairs<true>& pairs, int m, int number,
                        const Dropout& dropout, bool careful) const {
    const uint32_t stay = dropout.threshold > 0 ? survivors<true, Shape::other>(dropout, pairs, row, 0, m) : ~0u;
#pragma unroll
    for (int n = 0; n < Shape::other / 8; ++n) {
      const float2 delta = load_two(numbers(number, 1) + column_of(n, 0) * 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool stays = stay >> (4 * n + e) & 1;
        const float weight = s[0][n][e], of_weight = stays ? dp[0][n][e] * dropout.scale : 0.0f;
        s[0][n][e] = stays ? weight : 0.0f;
        dp[0][n][e] = gradient_of(weight, of_weight, e % 2 ? delta.y : delta.x, careful);
      }
    }
    if (OfValues) add<T, D, Shape::other>(dv, s, other(number, 1), careful);
    if (OfKeys) add<T, D, Shape::other>(dk, dp, other(number, 0), careful);
  }

  template <bool OfKeys, bool OfValues>
  PK_DEVICE void pass() const {
    const Place& x = plan.place;
    const Problem& p = f.call.problem;
    const int64_t storage = p.storage(x.sequence);
    Fragments<1, D> dk, dv;
    for (bool careful = false;; careful = true) {
      gather<OfKeys, OfValues>(dk, dv, careful);
      const bool finite = (!OfKeys || all_finite<1, D>(dk)) && (!OfValues || all_finite<1, D>(dv));
      if (!__syncthreads_or(!careful && !finite)) break;
    }
    if (OfKeys) {
      write_rows<T, D>(dk, p.scale, own(0), row, lines_of(f.dk, storage, x.head, x.keys.first, p.d, T::halves), x.tile);
    }
    if (OfValues) {
      write_rows<T, D>(dv, p.keep_scale, own(1), row, lines_of(f.dv, storage, x.head, x.keys.first, p.dv, T::halves),
                       x.tile);
    }
  }

  PK_DEVICE void run() const {
    if constexpr (D > 128 || (crowded && B != Bias::none)) {  // the sums of both do not fit into registers
      pass<false, true>();
      __syncthreads();
      pass<true, false>();
    } else {
      pass<true, true>();
    }
  }
};

template <class T, int D, Bias B, class Over = OverBandOf<B>>
PK_DEVICE void dkv(const Backward& f) {
  using Shape = BackwardShape<D * T::halves, B>;
  extern __shared__ uint4 memory[];
  __shared__ BackwardPlan<Over> plan;
  if (threadIdx.x == 0) set_dkv_plan<T>(plan, f, Shape::own, Shape::other);
  __syncthreads();
  if (plan.place.tile.count == 0) return;
  KeyPass<T, D, B, Over>{{f, plan, shared_address(memory)}}.run();
}

}  // namespace cuda
}  // namespace pkernels
