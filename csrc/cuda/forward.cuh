// Forward over a Band, a CTA per tile of queries (Dao 2023, FlashAttention-2, arXiv:2307.08691,
// section 3.1): the equations of csrc/cpu/forward.h, the order of pkernels/triton/band.py.
//
// While one pair of tiles, of keys and of values, is multiplied, asynchronous copies fill the other
// one: S = Q Kᵀ on the tensor cores, the softmax in registers, O += P V.
#pragma once

#include "careful.cuh"
#include "philox.cuh"
#include "relative.cuh"
#include "softmax.cuh"

namespace pkernels {
namespace cuda {

// Of rows of `Width` words.
template <int Width, Bias B = Bias::none, int Rows = OverBand::rows>
struct ForwardShape {
  static constexpr bool relative = B == Bias::relative;
  // Two blocks of rows a warp, if registers are enough: what it reads of keys and values serves both.
  static constexpr int blocks = Width <= 128 && !relative ? Rows / 64 : 1, warps = Rows / 16 / blocks;
  static constexpr int at_once = 8 / warps;  // CTAs of a multiprocessor, at least
  static constexpr int threads = 32 * warps, own = 16 * blocks * warps;
  static constexpr int other = Width == 64 ? 64 : 32, slots = 4;
  static constexpr int window = relative ? own + other : 0;  // rows of a table that two tiles meet
  static constexpr int slot = other * Width * 2, before = (own + (relative ? own + window : 0)) * Width * 2;
  static constexpr int shared = before + slots * slot;
};

// What all threads of a CTA know of its work.
template <class Over>
struct ForwardPlan {
  Place place;
  typename Over::Visits visits;
  Lines queries, keys, values, out;
  Lines asking, table;  // the queries and the table of a Relative
  float* lse;           // of the first row of the sequence
  float* outs;          // the same, if there are parts
  int begin, end;       // the tiles that it visits: its part
  bool whole;           // keys and values are, see Lines
};

template <class T, class Over>
PK_DEVICE void set_plan(ForwardPlan<Over>& plan, const Forward& f, int own, int other) {
  const Problem& p = f.call.problem;
  Place x = Over::place_queries(f.call, own, f.parts);
  const int64_t part = x.head / p.heads;
  x.head %= p.heads;
  plan.place = x;
  if (x.tile.count == 0) return;
  Over::visit_keys(plan.visits, f.call, x, other);
  const int64_t tiles = plan.visits.count(), share = ceil_div(tiles, f.parts);
  plan.begin = static_cast<int>(smaller(tiles, part * share));
  plan.end = static_cast<int>(smaller(tiles, (part + 1) * share));
  const int64_t storage = p.storage(x.sequence), head = x.head / p.group();
  plan.queries = lines_of(f.q, storage, x.head, x.queries.first, p.d, T::halves);
  plan.keys = lines_of(f.k, storage, head, x.keys.first, p.d, T::halves);
  plan.values = lines_of(f.v, storage, head, x.keys.first, p.dv, T::halves);
  plan.whole = plan.keys.whole && plan.values.whole;
  plan.out = lines_of(f.out, storage, x.head, x.queries.first, p.dv, T::halves);
  if (p.dr > 0) {
    plan.asking = lines_of(p.query, storage, x.head, x.queries.first, p.dr, T::halves);
    plan.table = lines_of(p.table, 0, x.head, 0, p.dr, T::halves);
  }
  plan.lse = numbers_of(f.lse, storage, x.head, x.queries.first) + part * f.part_rows;
  plan.outs = f.outs ? f.outs + (plan.lse - static_cast<float*>(f.lse.data)) * p.dv : nullptr;
}

template <class T, int D, Bias B, class Over>
struct ForwardPass {
  using Shape = ForwardShape<D * T::halves, B, Over::rows>;
  using Rows = TileOf<T, D>;
  using State = Running<Shape::blocks, D>;

  const Call& call;
  const ForwardPlan<Over>& plan;
  const Rows queries;
  const int row = threadIdx.x / 32 * 16 * Shape::blocks;  // the warp's first one

  PK_DEVICE Rows slot(int number) const { return {queries.address + Shape::before + number * Shape::slot}; }
  PK_DEVICE Rows asking() const { return queries.from(Shape::own); }
  PK_DEVICE Rows window() const { return asking().from(Shape::own); }

  PK_DEVICE Rows keys(int t) const { return slot((t & 1) * 2); }
  PK_DEVICE Rows values(int t) const { return slot((t & 1) * 2 + 1); }

  // A tile's segment, and its first row there.
  struct Visit {
    int segment, m;
  };

  // Starts to copy tile t of keys and of values; behind the last one zeros. Without a branch, so that it is done
  // between products.
  PK_DEVICE Visit fetch(int t) const {
    Visit x;
    x.segment = plan.visits.find(min(t, plan.end - 1), Shape::other, x.m);
    const Segment& s = plan.visits.segment(x.segment);
    const int first = s.first + x.m * s.step, exist = t < plan.end ? s.count - x.m : 0;
    keys(t).template copy<Shape::other, Shape::threads>(plan.keys, first, s.step, exist);
    values(t).template copy<Shape::other, Shape::threads>(plan.values, first, s.step, exist);
    commit_copies();
    return x;
  }

  // Loads of the tile what cannot be copied.
  PK_DEVICE void complete(const Visit& x, int t) const {
    if (plan.whole || t >= plan.end) return;
    wait_for_copies<0>();
    const Segment& s = plan.visits.segment(x.segment);
    const int first = s.first + x.m * s.step, exist = s.count - x.m;
    if (!plan.keys.whole) keys(t).template fill<Shape::other, Shape::threads>(plan.keys, first, s.step, exist);
    if (!plan.values.whole) values(t).template fill<Shape::other, Shape::threads>(plan.values, first, s.step, exist);
  }

  // Starts to load the rows of the table that tile t of keys meets.
  PK_DEVICE void fetch_window(int t) const {
    if (t >= plan.end) return;
    const Problem& p = call.problem;
    int m;
    const Segment& s = plan.visits.at(t, Shape::other, m);
    const int64_t last = plan.place.tile.first + (Shape::own - 1) * s.step, first = s.first + m * s.step;
    load_table<Shape::window, Shape::threads>(window(), plan.table, static_cast<int>(first - last + p.zero), s.step,
                                              p.table_rows);
    commit_copies();
  }

  PK_DEVICE void add_relative(Fragments<Shape::blocks, Shape::other>& s) const {
#pragma unroll
    for (int b = 0; b < Shape::blocks; ++b) {
      const int first = row + 16 * b;
      Fragments<1, Shape::other + 16> products = {};
      multiply_rows<T, D, 1, Shape::other + 16>(products, asking(), first, window().from(Shape::own - 16 - first));
      add_shifted<Shape::other>(s[b], products[0]);
    }
  }

  PK_DEVICE void attend(State& run, bool careful) const {
    queries.template load<Shape::own, Shape::threads>(plan.queries, plan.place.tile.first, plan.place.tile.step,
                                                      plan.place.tile.count);
    if (Shape::relative) {
      asking().template load<Shape::own, Shape::threads>(plan.asking, plan.place.tile.first, plan.place.tile.step,
                                                         plan.place.tile.count);
      fetch_window(plan.begin);
    }
    commit_copies();
    Visit next = {};
    if (plan.begin < plan.end) next = fetch(plan.begin);
    complete(next, plan.begin);
    run.start();
    const Dropout dropout = dropout_of(call, plan.place.head, plan.place.sequence);
    const Problem& p = call.problem;
    const float unit = unit_of<B>(p);
    for (int t = plan.begin; t < plan.end; ++t) {
      const Segment& segment = plan.visits.segment(next.segment);
      const int m = next.m;
      Fragments<Shape::blocks, Shape::other> s = {};
      wait_for_copies<0>();
      __syncthreads();
      multiply_rows<T, D, Shape::blocks, Shape::other>(s, queries, row, keys(t));
      next = fetch(t + 1);
      if (Shape::relative) {
        add_relative(s);
        __syncthreads();
        fetch_window(t + 1);
      }
      const Pairs<false> pairs = pairs_of<false>(plan.place.tile, segment);
      const int rows = static_cast<int>(plan.place.tile.count);
      add_bias<T, B, false, Shape::blocks, Shape::other>(s, p, plan.place.sequence, plan.place.head, pairs, row, m,
                                                         [&](int c, int o) { return c < rows && o < segment.count; });
      if (Over::counts) add_to_all<Shape::blocks, Shape::other>(s, segment.added / unit);
      if (!is_full(segment, rows, m, Shape::other)) mask<Shape::blocks, Shape::other>(s, -INFINITY, segment, row, m);
      if (careful || dropout.threshold > 0) {
        add_up(run, s, unit, pairs, m, t, dropout, careful);
      } else {
        add_up(run, s, unit, pairs, m, t, no_dropout(), false);
      }
      complete(next, t + 1);
    }
    wait_for_copies<0>();
  }

  // In one piece where nothing is dropped: exponentials are taken between the products.
  PK_DEVICE void add_up(State& run, Fragments<Shape::blocks, Shape::other>& s, float unit, const Pairs<false>& pairs,
                        int m, int t, const Dropout& dropout, bool careful) const {
    run.template soften<Shape::other>(s, unit);
    if (dropout.threshold > 0) drop<Shape::blocks, Shape::other>(s, dropout, pairs, row, m);
    add<T, D, Shape::other>(run.acc, s, values(t), careful);
  }

  PK_DEVICE void run() const {
    State run;
    for (bool careful = false;; careful = true) {
      attend(run, careful);
      if (!__syncthreads_or(!careful && !all_finite<Shape::blocks, D>(run.acc))) break;
    }
    finish(run);
  }

  // A row of a part: as much of it as the lane holds.
  PK_DEVICE void store_part(const State& run, int b, int half, float factor, int64_t at) const {
    const int width = static_cast<int>(call.problem.dv);
    float* to = plan.outs + at * width;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = column_of(n, e);
        if (column < width) to[column] = run.acc[b][n][2 * half + e] * factor;
      }
    }
  }

  PK_DEVICE void finish(State& run) const {
    const Problem& p = call.problem;
    const QueryTile& tile = plan.place.tile;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int b = 0; b < Shape::blocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float total = row_sum(run.total[b][half]);
        const float factor = total == 0 ? 0.0f : p.keep_scale / total;
        const int c = row_of(row, b, 2 * half);
        if (lane % 4 == 0 && c < tile.count) {
          plan.lse[tile.first + c * tile.step] = State::log_sum(run.top[b][half], total, unit_of<B>(p));
        }
        if (plan.outs) {
          if (c < tile.count) store_part(run, b, half, factor, tile.first + c * tile.step);
          continue;
        }
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          const float* o = &run.acc[b][n][2 * half];
          store_pair<T>(queries, c, n, o[0] * factor, o[1] * factor);
        }
      }
    }
    if (plan.outs) return;
    __syncwarp();
    queries.template store<16 * Shape::blocks>(plan.out, row, tile.first, tile.step, tile.count);
  }
};

template <class T, int D, Bias B, class Over = OverBandOf<B>>
PK_DEVICE void forward(const Forward& f) {
  using Shape = ForwardShape<D * T::halves, B, Over::rows>;
  extern __shared__ uint4 memory[];
  __shared__ ForwardPlan<Over> plan;
  if (threadIdx.x == 0) set_plan<T>(plan, f, Shape::own, Shape::other);
  __syncthreads();
  if (plan.place.tile.count == 0) return;
  ForwardPass<T, D, B, Over>{f.call, plan, {shared_address(memory)}}.run();
}

}  // namespace cuda
}  // namespace pkernels
