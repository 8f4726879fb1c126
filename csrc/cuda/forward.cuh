// Forward over a Band, a CTA per tile of queries (Dao 2023, FlashAttention-2, arXiv:2307.08691,
// section 3.1): the equations of csrc/cpu/forward.h, the order of pkernels/triton/band.py.
//
// Tiles of keys and of values take turns in a ring of slots, which asynchronous copies fill ahead
// of the products: S = Q Kᵀ on the tensor cores, the softmax in registers, O += P V.
#pragma once

#include "careful.cuh"
#include "philox.cuh"
#include "softmax.cuh"

namespace pkernels {
namespace cuda {

template <int D>
struct ForwardShape {
  static constexpr int warps = D == 64 ? 4 : 8, blocks = D == 64 ? 2 : 1, slots = D == 64 ? 4 : 3;
  static constexpr int threads = 32 * warps, own = 16 * blocks * warps, other = 64;
  static constexpr int slot = other * D * 2, shared = own * D * 2 + slots * slot;
};

template <class T, int D, Bias B>
struct ForwardPass {
  using Shape = ForwardShape<D>;
  using State = Running<Shape::blocks, D>;

  const Forward& f;
  const Place& x;
  const Visits<2> visits;
  const Lines keys, values;
  const Tile<D> queries;
  const int row = threadIdx.x / 32 * 16 * Shape::blocks;  // the warp's first one

  PK_DEVICE Tile<D> slot(int number) const {
    return {queries.address + Shape::own * D * 2 + number * Shape::slot};
  }

  // Starts to load part u of the tiles, keys at even u, values at odd ones, and closes its group.
  PK_DEVICE void fetch(int u, int to) const {
    if (u < 2 * visits.count()) {
      int m;
      const Segment s = visits.at(u / 2, Shape::other, m);
      slot(to).template load<Shape::other, Shape::threads>(u % 2 ? values : keys, s.first + m * s.step, s.step,
                                                           s.count - m);
    }
    commit_copies();
  }

  // Waits for part u, and starts the one whose slot was used last.
  PK_DEVICE void next(int u, int& at) const {
    wait_for_copies<Shape::slots - 2>();
    __syncthreads();
    fetch(u + Shape::slots - 1, at == 0 ? Shape::slots - 1 : at - 1);
  }

  PK_DEVICE void attend(State& run, const Dropout& dropout, bool careful) const {
    const Problem& p = f.call.problem;
    const float unit = unit_of<B>(p);
    int at = 0;
    for (int t = 0; t < visits.count(); ++t) {
      int m;
      const Segment segment = visits.at(t, Shape::other, m);
      const Pairs<false> pairs = pairs_of<false>(x.tile, segment);
      const int rows = static_cast<int>(x.tile.count);
      Fragments<Shape::blocks, Shape::other> s = {};
      next(2 * t, at);
      multiply_rows<T, D, Shape::blocks, Shape::other>(s, queries, row, slot(at));
      at = at + 1 == Shape::slots ? 0 : at + 1;
      add_bias<T, B, false, Shape::blocks, Shape::other>(
          s, p, x.sequence, x.head, pairs, row, m,
          [&](int c, int o) { return c < rows && o < segment.count; });
      if (!is_full(segment, rows, m, Shape::other)) mask<Shape::blocks, Shape::other>(s, segment, row, m);
      run.template soften<Shape::other>(s, unit);
      if (p.threshold > 0) drop<Shape::blocks, Shape::other>(s, dropout, pairs, row, m);
      next(2 * t + 1, at);
      careful ? add_carefully<T, D, Shape::blocks, Shape::other>(run.acc, s, slot(at))
              : add_weighted<T, D, Shape::blocks, Shape::other>(run.acc, s, slot(at));
      at = at + 1 == Shape::slots ? 0 : at + 1;
    }
    wait_for_copies<0>();
  }

  PK_DEVICE void run() const {
    const Problem& p = f.call.problem;
    const int64_t storage = p.storage(x.sequence);
    const int first = static_cast<int>(x.tile.first), step = static_cast<int>(x.tile.step);
    const int rows = static_cast<int>(x.tile.count);
    const Lines from = lines_of(f.q, storage, x.head, x.queries.first, p.d);
    const Dropout dropout = dropout_of(f.call, x.head, x.sequence);
    State run;
    for (bool careful = false;; careful = true) {
      queries.template load<Shape::own, Shape::threads>(from, first, step, rows);
#pragma unroll
      for (int u = 0; u < Shape::slots - 1; ++u) fetch(u, u);
      run.start();
      attend(run, dropout, careful);
      if (!__syncthreads_or(!careful && !all_finite<Shape::blocks, D>(run.acc))) break;
    }
    finish(run, first, step, rows, storage);
  }

  PK_DEVICE void finish(State& run, int first, int step, int rows, int64_t storage) const {
    const Problem& p = f.call.problem;
    const int lane = threadIdx.x % 32;
    float* lse = f.lse + storage * f.lse_batch + x.head * f.lse_head + x.queries.first + first;
#pragma unroll
    for (int b = 0; b < Shape::blocks; ++b) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float total = row_sum(run.total[b][half]);
        const float factor = total == 0 ? 0.0f : p.keep_scale / total;
        const int c = row_of(row, b, 2 * half);
        if (lane % 4 == 0 && c < rows) lse[c * step] = State::log_sum(run.top[b][half], total, unit_of<B>(p));
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          const float* o = &run.acc[b][n][2 * half];
          store_shared(queries.at(c, n) + lane % 4 * 4, T::pack(o[0] * factor, o[1] * factor));
        }
      }
    }
    __syncwarp();
    queries.template store<16 * Shape::blocks>(lines_of(f.out, storage, x.head, x.queries.first, p.dv), row, first,
                                               step, rows);
  }
};

template <class T, int D, Bias B>
PK_DEVICE void forward(const Forward& f) {
  using Shape = ForwardShape<D>;
  extern __shared__ uint4 memory[];
  const Problem& p = f.call.problem;
  const Place x = place(f.call, p.heads, [&](int64_t n_q, int64_t n_k) {
    return numbered_query_tiles(p.band, n_q, n_k, Shape::own);
  });
  if (x.tile.count == 0) return;
  const int64_t storage = p.storage(x.sequence), head = x.head / p.group();
  const ForwardPass<T, D, B> pass{f,
                                  x,
                                  visited_keys(f.call, x, Shape::other),
                                  lines_of(f.k, storage, head, x.keys.first, p.d),
                                  lines_of(f.v, storage, head, x.keys.first, p.dv),
                                  {shared_address(memory)}};
  pass.run();
}

}  // namespace cuda
}  // namespace pkernels
