// Forward over a Band on sm_90a, a CTA per tile of queries (Shah et al. 2024, FlashAttention-3, arXiv:2407.08608,
// sections 3.1 and 3.2): the equations of forward.cuh, with the copy engine and the products of sm_90a.
//
// One warp, the producer, has tiles of keys and of values copied into two rings; two or three groups of four warps
// consume them, 64 rows of queries each. A group has S of the next tile and O += P V of this one multiplied at once,
// and works on the softmax of the next while O += P V still runs. The groups take turns in beginning products, so that
// those of one run while the other takes exponentials. Not here: biases, dropout, rows that are not neighbours.
#pragma once

#include "forward.cuh"
#include "hopper.h"
#include "ring.cuh"

namespace pkernels {
namespace cuda {

template <int Width, Bias B = Bias::none>
struct HopperShape {
  static constexpr int groups = Width == 64 ? 3 : 2, threads = 128 * (groups + 1), at_once = 1;
  // Registers of a thread of the producer's group and of the others, 65536 in all.
  static constexpr int few = groups == 3 ? 32 : 24, many = groups == 3 ? 160 : 240;
  static constexpr int own = 64 * groups, other = 128, slots = 2;  // rows of the tiles; tiles of a ring
  static constexpr int own_bytes = own * Width * 2, other_bytes = other * Width * 2;
  // The copy engine's swizzle counts from multiples of 1024.
  static constexpr int shared = 1024 + own_bytes + 2 * slots * other_bytes;
};

template <class T, int D>
struct HopperPass {
  using Shape = HopperShape<D>;
  using State = Running<1, D>;
  using Products = GroupProducts<T>;
  using Scores = Fragments<1, Shape::other>;
  using Weights = uint32_t[Shape::other / 16][4];
  using Keys = Ring<D, Shape::other, Shape::slots>;
  static constexpr int slots = Shape::slots, barriers = 1 + 4 * slots;

  const HopperForward& f;
  const ForwardPlan<OverBand>& plan;
  const Panels<D, Shape::own> queries;
  const uint32_t arrived;  // the barrier of the queries
  const Keys keys, values;
  const uint32_t notes;                   // of each slot of keys: the tile in it, or -1 if all of its pairs are kept
  const int row = threadIdx.x / 32 * 16;  // the warp's first one
  const int group = __shfl_sync(~0u, threadIdx.x / 128, 0);  // so that the compiler knows it is the warp's

  PK_DEVICE HopperPass(const HopperForward& f, const ForwardPlan<OverBand>& plan, uint32_t tiles, uint32_t barriers,
                       uint32_t notes)
      : f(f),
        plan(plan),
        queries{tiles},
        arrived(barriers),
        keys{tiles + Shape::own_bytes, barriers + 8},
        values{keys.tiles + slots * Shape::other_bytes, keys.barriers + 16 * slots},
        notes(notes) {}

  PK_DEVICE void make_barriers() const {
    make_barrier(arrived, 1);
    keys.make(4 * Shape::groups), values.make(4 * Shape::groups);
    fence_engines();
  }

  // The producer ------------------------------------------------------------------------

  PK_DEVICE void load_queries() const {
    const Place& x = plan.place;
    queries.load(f.queries, static_cast<int>(x.queries.first + x.tile.first), static_cast<int>(x.head), storage(),
                 arrived);
  }

  // Fills the rings with all tiles, behind n others.
  PK_DEVICE void feed(int n) const {
    const Problem& p = f.forward.call.problem;
    // In 32 bits, for a division of 64 takes more registers than the producer has.
    const uint32_t group = static_cast<uint32_t>(p.heads) / static_cast<uint32_t>(p.kv_heads);
    const int head = static_cast<int>(static_cast<uint32_t>(plan.place.head) / group);
    const int first = static_cast<int>(plan.place.keys.first), rows = static_cast<int>(plan.place.tile.count);
#pragma unroll 1
    for (int t = plan.begin; t < plan.end; ++t, ++n) {
      int m;
      const Segment& s = plan.visits.at(t, Shape::other, m);
      keys.await_empty(n);
      if (threadIdx.x % 32 == 0) store_shared(note(n), is_full(s, rows, m, Shape::other) ? ~0u : t);
      keys.fill(n, f.keys, first + s.first + m, head, storage());
      values.await_empty(n);
      values.fill(n, f.values, first + s.first + m, head, storage());
    }
  }

  PK_DEVICE uint32_t note(int n) const { return notes + 4 * Keys::index(n); }
  PK_DEVICE int storage() const { return static_cast<int>(f.forward.call.problem.storage(plan.place.sequence)); }

  PK_DEVICE void produce() const {
    const bool feeds = threadIdx.x / 32 == 4 * Shape::groups;
    const int tiles = plan.end - plan.begin;
    if (feeds) load_queries(), feed(0);
    if (__syncthreads_or(false) && feeds) feed(tiles);
  }

  // A consumer --------------------------------------------------------------------------

  PK_DEVICE void begin_scores(Scores& s, int n) const {
    const uint64_t a = operand_at(queries.address + group * (64 * 128)), b = operand_at(keys.tile(n).address);
    keys.await(n);
    begin_products();
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      const int panel = k / 4, inside = k % 4 * 32;
      const uint64_t x = a + (panel * queries.panel_bytes + inside) / 16;
      const uint64_t y = b + (panel * keys.tile(0).panel_bytes + inside) / 16;
      auto& d = reinterpret_cast<float (&)[Shape::other / 2]>(s);
      if (k == 0) {
        Products::multiply(d, x, y);
      } else {
        Products::multiply_add(d, x, y);
      }
    }
    commit_products();
  }

  // Returns what is noted of the tile.
  template <int Pending>
  PK_DEVICE int finish_scores(Scores& s, int n) const {
    wait_for_products<Pending>(reinterpret_cast<float (&)[Shape::other / 2]>(s));
    const int noted = static_cast<int>(load_word(note(n)));
    keys.release(n);
    return noted;
  }

  PK_DEVICE void begin_sums(State& run, const Weights& weights, int n) const {
    const uint64_t b = operand_at(values.tile(n).address, values.tile(0).panel_bytes);
    values.await(n);
    begin_products();
#pragma unroll
    for (int k = 0; k < Shape::other / 16; ++k) {
      Products::multiply_add(reinterpret_cast<float (&)[D / 2]>(run.acc), weights[k], b + k * (16 * 128 / 16));
    }
    commit_products();
  }

  PK_DEVICE void finish_sums(State& run, int n) const {
    wait_for_products<0>(reinterpret_cast<float (&)[D / 2]>(run.acc));
    values.release(n);
  }

  // Before and after the products of a tile begin, of those from 1 on. Barrier 1 + g says that it is group g's turn;
  // one group waits for it, the one before arrives.
  PK_DEVICE void await_turn() const { wait_at_barrier(1 + group, 256); }
  PK_DEVICE void pass_turn() const { arrive_at_barrier(1 + (group + 1) % Shape::groups, 256); }

  // Signs and masks.
  PK_DEVICE void adjust(Scores& s, int noted) const {
    const Problem& p = f.forward.call.problem;
    add_bias<T, Bias::none, false, 1, Shape::other>(s, p, 0, 0, Pairs<false>{}, row, 0, [](int, int) { return true; });
    if (noted < 0) return;
    // As mask, with constants as columns: these kernels have no registers left for others.
    int m;
    const Segment& segment = plan.visits.at(noted, Shape::other, m);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Bounds keep = kept(segment, row_of(row, 0, 2 * half));
      const int own = m + column_of(0, 0), low = keep.low - own, high = keep.high - own;
#pragma unroll
      for (int n = 0; n < Shape::other / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = n * 8 + e;
          float& x = s[0][n][2 * half + e];
          x = column >= low && column <= high ? x : -INFINITY;
        }
      }
    }
  }

  PK_DEVICE static void pack(Weights& weights, const Scores& s) {
#pragma unroll
    for (int k = 0; k < Shape::other / 16; ++k) as_operand<T>(weights[k], s[0], k);
  }

  PK_DEVICE void attend(State& run) const {
    const float unit = unit_of<Bias::none>(f.forward.call.problem);
    const int tiles = plan.end - plan.begin;
    if (tiles == 0) return;
    Scores s;
    Weights weights;
    begin_scores(s, 0);
    adjust(s, finish_scores<0>(s, 0));
    run.template soften<Shape::other>(s, unit);
    pack(weights, s);
    if (group + 1 == Shape::groups) pass_turn();  // the first turn is group 0's
#pragma unroll 1
    for (int n = 1; n < tiles; ++n) {
      float alphas[2];
      await_turn();
      begin_scores(s, n);
      begin_sums(run, weights, n - 1);
      pass_turn();
      adjust(s, finish_scores<1>(s, n));
      const bool raised = run.template raise<Shape::other>(s, unit, [&](int, int half, float x) { alphas[half] = x; });
      run.template weigh<Shape::other>(s, unit);
      work_out_now(run.total[0][0] + run.total[0][1]);  // all exponentials
      finish_sums(run, n - 1);
      if (raised) run.rescale(0, 0, alphas[0]), run.rescale(0, 1, alphas[1]);
      pack(weights, s);
    }
    if (group == 0) await_turn();  // that which is left
    begin_sums(run, weights, tiles - 1);
    finish_sums(run, tiles - 1);
  }

  // The same again with values that are not finite, behind n other tiles: one thing after another.
  PK_DEVICE void attend_carefully(State& run, int n) const {
    const float unit = unit_of<Bias::none>(f.forward.call.problem);
#pragma unroll 1
    for (int t = plan.begin; t < plan.end; ++t, ++n) {
      Scores s;
      begin_scores(s, n);
      adjust(s, finish_scores<0>(s, n));
      run.template soften<Shape::other>(s, unit);
      values.await(n);
#pragma unroll
      for (int i = 0; i < D / 64; ++i) {
        add_carefully<T, 64, 1, Shape::other>(reinterpret_cast<Fragments<1, 64>&>(run.acc[0][8 * i]), s,
                                              values.tile(n)[i]);
      }
      fence_engines();
      values.release(n);
    }
  }

  // Whether the sums of rows that exist are finite; see all_finite.
  PK_DEVICE bool finite(const State& run) const {
    float sum[2] = {};
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e / 2] += run.acc[0][n][e] * 0.0f;
    }
    const int64_t rows = plan.place.tile.count;
    return (sum[0] == 0 || row_of(row, 0, 0) >= rows) && (sum[1] == 0 || row_of(row, 0, 2) >= rows);
  }

  PK_DEVICE void consume() const {
    State run;
    run.start();
    wait_for_phase(arrived, 0);
    attend(run);
    if (__syncthreads_or(!finite(run))) {
      run.start();
      attend_carefully(run, plan.end - plan.begin);
      wait_at_barrier(1 + group, 128);  // nobody of the group multiplies queries any more
    }
    finish(run);
  }

  // The rows go out through the memory of the queries.
  PK_DEVICE void finish(const State& run) const {
    const Problem& p = f.forward.call.problem;
    const QueryTile& tile = plan.place.tile;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = row_sum(run.total[0][half]);
      const float factor = total == 0 ? 0.0f : 1 / total;
      const int c = row_of(row, 0, 2 * half);
      if (threadIdx.x % 4 == 0 && c < tile.count) {
        plan.lse[tile.first + c] = State::log_sum(run.top[0][half], total, unit_of<Bias::none>(p));
      }
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        const float* o = &run.acc[0][n][2 * half];
        store_pair<T>(queries[n / 8], c, n % 8, o[0] * factor, o[1] * factor);
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < D / 64; ++i) {
      const Lines out{plan.out.data + 128 * i, plan.out.step, plan.out.width - 64 * i, plan.out.whole};
      queries[i].template store<16>(out, row, tile.first, 1, tile.count);
    }
  }
};

template <class T, int D, Bias B>
PK_DEVICE void hopper_forward(const HopperForward& f) {
  using Shape = HopperShape<D>;
  using Pass = HopperPass<T, D>;
  extern __shared__ uint4 memory[];
  __shared__ ForwardPlan<OverBand> plan;
  __shared__ uint64_t barriers[Pass::barriers];
  __shared__ uint32_t notes[Shape::slots];
  const Pass pass(f, plan, (shared_address(memory) + 1023) / 1024 * 1024, shared_address(barriers),
                  shared_address(notes));
  if (threadIdx.x == 0) {
    set_plan<T>(plan, f.forward, Shape::own, Shape::other);
    pass.make_barriers();
  }
  __syncthreads();
  if (plan.place.tile.count == 0) return;
  if (threadIdx.x >= 128 * Shape::groups) {
    shrink<Shape::few>();
    pass.produce();
  } else {
    grow<Shape::many>();
    pass.consume();
  }
}

}  // namespace cuda
}  // namespace pkernels
