// Forward over a Band, a CTA per tile of queries (Dao 2023, FlashAttention-2, arXiv:2307.08691,
// section 3.1): the equations of csrc/cpu/forward.h, the order of pkernels/triton/band.py.
//
// Tiles of keys and of values take turns in a ring of slots, which asynchronous copies fill ahead
// of the products: S = Q Kᵀ on the tensor cores, the softmax in registers, O += P V.
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
  static constexpr int blocks = Width == 64 && !relative ? Rows / 64 : 1, warps = Rows / 16 / blocks;
  static constexpr int slots = relative ? 2 : Width == 64 ? 4 : 3;
  static constexpr int at_once = 8 / warps;  // CTAs of a multiprocessor, at least
  static constexpr int threads = 32 * warps, own = 16 * blocks * warps;
  static constexpr int other = Width > 128 ? 32 : 64;
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

  // Starts to load part u of the tiles, keys at even u, values at odd ones, and closes its group.
  PK_DEVICE void fetch(int u, int to) const {
    if (u < 2 * plan.end) {
      int m;
      const Segment& s = plan.visits.at(u / 2, Shape::other, m);
      slot(to).template load<Shape::other, Shape::threads>(u % 2 ? plan.values : plan.keys, s.first + m * s.step,
                                                           s.step, s.count - m);
    }
    commit_copies();
  }

  // Starts to load the rows of the table that tile t of keys meets, with the part that is loaded next.
  PK_DEVICE void fetch_window(int t) const {
    if (t >= plan.end) return;
    const Problem& p = call.problem;
    int m;
    const Segment& s = plan.visits.at(t, Shape::other, m);
    const int64_t last = plan.place.tile.first + (Shape::own - 1) * s.step, first = s.first + m * s.step;
    load_table<Shape::window, Shape::threads>(window(), plan.table, static_cast<int>(first - last + p.zero), s.step,
                                              p.table_rows);
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

  // Waits for part u, and starts the one that takes the slot used last.
  PK_DEVICE void next(int u, int at) const {
    wait_for_copies<Shape::slots - 2>();
    __syncthreads();
    if (Shape::relative && u % 2) fetch_window(u / 2 + 1);
    fetch(u + Shape::slots - 1, at == 0 ? Shape::slots - 1 : at - 1);
  }

  PK_DEVICE void attend(State& run, bool careful) const {
    queries.template load<Shape::own, Shape::threads>(plan.queries, plan.place.tile.first, plan.place.tile.step,
                                                      plan.place.tile.count);
    if (Shape::relative) {
      asking().template load<Shape::own, Shape::threads>(plan.asking, plan.place.tile.first, plan.place.tile.step,
                                                         plan.place.tile.count);
      fetch_window(plan.begin);
    }
#pragma unroll 1
    for (int u = 0; u < Shape::slots - 1; ++u) fetch(2 * plan.begin + u, u);
    run.start();
    const Dropout dropout = dropout_of(call, plan.place.head, plan.place.sequence);
    const Problem& p = call.problem;
    const float unit = unit_of<B>(p);
    int at = 0;
    for (int t = plan.begin; t < plan.end; ++t) {
      Fragments<Shape::blocks, Shape::other> s = {};
      next(2 * t, at);
      multiply_rows<T, D, Shape::blocks, Shape::other>(s, queries, row, slot(at));
      if (Shape::relative) add_relative(s);
      at = at + 1 == Shape::slots ? 0 : at + 1;
      int m;
      const Segment& segment = plan.visits.at(t, Shape::other, m);
      const Pairs<false> pairs = pairs_of<false>(plan.place.tile, segment);
      const int rows = static_cast<int>(plan.place.tile.count);
      add_bias<T, B, false, Shape::blocks, Shape::other>(s, p, plan.place.sequence, plan.place.head, pairs, row, m,
                                                         [&](int c, int o) { return c < rows && o < segment.count; });
      if (Over::counts) add_to_all<Shape::blocks, Shape::other>(s, segment.added / unit);
      if (!is_full(segment, rows, m, Shape::other)) mask<Shape::blocks, Shape::other>(s, -INFINITY, segment, row, m);
      run.template soften<Shape::other>(s, unit);
      if (p.threshold > 0) drop<Shape::blocks, Shape::other>(s, dropout, pairs, row, m);
      next(2 * t + 1, at);
      if (careful) {
        add_carefully<T, D, Shape::blocks, Shape::other>(run.acc, s, slot(at));
      } else {
        add_weighted<T, D, Shape::blocks, Shape::other>(run.acc, s, slot(at));
      }
      at = at + 1 == Shape::slots ? 0 : at + 1;
    }
    wait_for_copies<0>();
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
