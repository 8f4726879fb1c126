// The gradients that are sums along diagonals, a CTA per sequence, query head and 64 of these (dS as
// in backward.cuh):
//
//   dDistance[h, t] = sum over b, i of dS[b, h, i, i + t - zero]
//   dTable[h, t]    = scale * sum over b, i of dS[b, h, i, i + t - zero] Query[b, h, i]
//
// A CTA walks down its diagonals, some queries at a time; the keys that they meet move on with them,
// so that their tiles are rings of rows. Under a dilation all of these lie as far apart as it says. A warp owns 16
// diagonals: of 16 queries and the 32 keys there it takes the half that lies on them. It writes a sum for each
// sequence; the rest is summed where there are no kernels. Memory: O(B H S), or O(B H S Dr).
#pragma once

#include "backward.cuh"
#include "kept.cuh"

namespace pkernels {
namespace cuda {

// Of rows of `Width` words.
template <int Width, Bias B>
struct DiagonalShape {
  static constexpr bool relative = B == Bias::relative;
  static constexpr int warps = 4, threads = 32 * warps, own = 16 * warps, other = Width == 64 ? 64 : 16;
  static constexpr int at_once = Width > 128 ? 1 : 8 / warps, row_bytes = Width * 2;
  static constexpr int ring = own + other;  // keys that the diagonals of `other` queries meet
  static constexpr int rows = 2 * ring + 2 * other + (relative ? other + own : 0);
  static constexpr int shared = rows * row_bytes + 2 * other * 4;
};

// What all threads of a CTA know of its work.
template <class Kept>
struct DiagonalPlan {
  Place place;  // its tile is one of the values
  Kept kept;
  Sources queries, keys;
  Lines asking, table;
  float *lse, *delta;
  int first, step;    // rows first, first + step, ... of the values
  int t, begin, end;  // key - query of the first one; queries [begin, end) meet the diagonals
};

template <class T, class Kept>
PK_DEVICE void set_diagonal_plan(DiagonalPlan<Kept>& plan, const Backward& f, int own, int width) {
  const Problem& p = f.call.problem;
  const NumberedTiles tiles{width, 0, 0, p.band.dilation, own};
  const int64_t row = blockIdx.x / tiles.count();
  Place& x = plan.place;
  x.tile = tiles[blockIdx.x % tiles.count()];
  x.head = row % p.heads, x.sequence = row / p.heads;
  x.queries = span(f.call.query_spans, x.sequence, f.call.rows_of_queries);
  x.keys = span(f.call.key_spans, x.sequence, f.call.rows_of_keys);
  plan.kept = Kept::of(f, x);
  plan.queries = queries_of<T>(f, x, x.head), plan.keys = keys_of<T>(f, x, x.head / p.group());
  const int64_t storage = p.storage(x.sequence);
  plan.lse = numbers_of(f.lse, storage, x.head, x.queries.first);
  plan.delta = numbers_of(f.delta, storage, x.head, x.queries.first);
  if (p.dr > 0) {
    plan.asking = lines_of(p.query, storage, x.head, x.queries.first, p.dr, T::halves);
    plan.table = lines_of(p.table, 0, x.head, 0, p.dr, T::halves);
  }
  plan.first = static_cast<int>(x.tile.first), plan.step = static_cast<int>(x.tile.step);
  plan.t = plan.first - static_cast<int>(p.zero);
  plan.begin = max(0, -(plan.t + (own - 1) * plan.step));
  plan.end = static_cast<int>(smaller(x.queries.count, x.keys.count - plan.t));
}

template <class T, int D, Bias B, class Kept>
struct DiagonalPass {
  using Shape = DiagonalShape<D * T::halves, B>;

  const Backward& f;
  const DiagonalPlan<Kept>& plan;
  const uint32_t memory;
  const int row = threadIdx.x / 32 * 16;  // the warp's first diagonal

  // What the warp sums: of a Distance two numbers a lane, of a table rows as wide as its own.
  struct Sums {
    float distance[2];
    Fragments<1, D> table;
  };

  PK_DEVICE TileOf<T, D> at(int rows) const { return {memory + rows * Shape::row_bytes}; }
  PK_DEVICE TileOf<T, D> keys() const { return at(0); }
  PK_DEVICE TileOf<T, D> values() const { return at(Shape::ring); }
  PK_DEVICE TileOf<T, D> queries() const { return at(2 * Shape::ring); }
  PK_DEVICE TileOf<T, D> douts() const { return at(2 * Shape::ring + Shape::other); }
  PK_DEVICE TileOf<T, D> asking() const { return at(2 * Shape::ring + 2 * Shape::other); }
  PK_DEVICE TileOf<T, D> table() const { return at(2 * Shape::ring + 3 * Shape::other); }
  PK_DEVICE uint32_t numbers(int part) const { return at(Shape::rows).address + part * Shape::other * 4; }

  // Loads what queries i, i + step, ... need; of the keys all those of the ring, or what is new in it.
  PK_DEVICE void load(int i, int at, bool all) const {
    const int n_q = plan.kept.n_q, step = plan.step, key = i + plan.t + (all ? 0 : Shape::own * step);
    const Within there = within(key, step, plan.kept.n_k), asked = within(i, step, n_q);
    if (all) {
      Tiles<D * T::halves>{keys(), values()}.template load<Shape::ring, Shape::threads>(plan.keys, key, step,
                                                                                        there.exist, there.begin);
    } else {
      const int fresh = (at + Shape::own) % Shape::ring;
      Tiles<D * T::halves>{keys().from(fresh), values().from(fresh)}.template load<Shape::other, Shape::threads>(
          plan.keys, key, step, there.exist, there.begin);
    }
    Tiles<D * T::halves>{queries(), douts()}.template load<Shape::other, Shape::threads>(plan.queries, i, step,
                                                                                         asked.exist);
    if (Shape::relative) asking().template load<Shape::other, Shape::threads>(plan.asking, i, step, asked.exist);
    const int part = threadIdx.x / Shape::other, c = threadIdx.x % Shape::other, row = i + c * step;
    if (part < 2) copy_number(numbers(part) + c * 4, (part ? plan.delta : plan.lse) + min(row, n_q - 1), row < n_q);
    commit_copies();
  }

  // Whose number e of block n the lane holds: of queries i, i + step, ..., and the key of one.
  PK_DEVICE int query_of(int i, int n, int e) const { return i + column_of(n, e) * plan.step; }
  PK_DEVICE int key_of(int query, int e) const { return query + plan.t + row_of(row, 0, e) * plan.step; }

  // Which of the lane's pairs of diagonals and queries i, ... dropout keeps: bit 4 n + e. A lane draws for
  // a query and 8 keys, of which those of 16 diagonals meet three times as many at most; where rows are no
  // neighbours, each draws for itself.
  PK_DEVICE uint32_t survivors_of(const Dropout& dropout, int i) const {
    const int lane = threadIdx.x % 32, key = i + plan.t + row;  // the first diagonal's, of the first query
    uint32_t stay = 0;
    if (plan.step != 1) {
#pragma unroll 1
      for (int at = 0; at < 8; ++at) {
        const int query = query_of(i, at / 4, at % 4), of = key_of(query, at % 4);
        stay |= (dropout.draw(query, of >> 3) >> (of & 7) & 1) << at;
      }
      return stay;
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int c = n * 8 + lane % 8;
      const uint32_t drawn = dropout.draw(i + c, ((key + c) >> 3) + lane / 8);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int o = column_of(n, e), of = key + o + row_of(0, 0, e), group = (of >> 3) - ((key + o) >> 3);
        stay |= (__shfl_sync(~0u, drawn, group * 8 + o % 8) >> (of & 7) & 1) << (4 * n + e);
      }
    }
    return stay;
  }

  // dS of the warp's diagonals and the 16 queries from row c of the tile on.
  PK_DEVICE void gradients(Fragments<1, 16>& s, int i, int at, int c, const float (&added)[2],
                           const Dropout& dropout) const {
    const Problem& p = f.call.problem;
    const float scale = p.scale * log2e;
    Fragments<1, 16> dp;
    {
      const int rows[2] = {(at + row + c) % Shape::ring, (at + row + c + 16) % Shape::ring};
      Fragments<2, 16> products = {};
      multiply_rows<T, D, 2, 16>(products, keys(), rows, queries().from(c));
      to_diagonals(s, products);
#pragma unroll
      for (int k = 0; k < 16; ++k) products[k / 8][k / 4 % 2][k % 4] = 0;
      multiply_rows<T, D, 2, 16>(products, values(), rows, douts().from(c));
      to_diagonals(dp, products);
    }
    if (Shape::relative) multiply_rows<T, D, 1, 16>(s, table(), row, asking().from(c));
    i += c * plan.step;
    const uint32_t stay = p.threshold > 0 ? survivors_of(dropout, i) : ~0u;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float2 lse = load_two(numbers(0) + (c + column_of(n, 0)) * 4);
      const float2 delta = load_two(numbers(1) + (c + column_of(n, 0)) * 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int query = query_of(i, n, e), key = key_of(query, e);
        float& x = s[0][n][e];
        const float weight = exp2(x * scale + added[e / 2] - lse_of(e % 2 ? lse.y : lse.x));
        const float dropped = stay >> (4 * n + e) & 1 ? dp[0][n][e] * p.keep_scale : 0.0f;
        x = gradient_of(plan.kept.weigh(weight, query, key), dropped, e % 2 ? delta.y : delta.x, true);
      }
    }
  }

  PK_DEVICE void gather(Sums& sums, bool careful) const {
    const Problem& p = f.call.problem;
    const Dropout dropout = dropout_of(f.call, plan.place.head, plan.place.sequence);
    float added[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sums.distance[half] = 0;
      if (B == Bias::distance) {
        added[half] = distance_at(p, plan.place.head, 0, key_of(0, 2 * half)) * log2e;
      }
    }
    if (Shape::relative) clear(sums.table);
    for (int first = plan.begin; first < min(plan.end, plan.begin + plan.step); ++first) {
      walk(sums, first, added, dropout, careful);
    }
  }

  // Sums up what queries first, first + step, ... add.
  PK_DEVICE void walk(Sums& sums, int first, const float (&added)[2], const Dropout& dropout, bool careful) const {
    bool all = true;
    int at = 0;
    for (int i = first; i < plan.end; i += Shape::other * plan.step) {
      if (!plan.kept.meets(plan.t, Shape::own, i, Shape::other, plan.step)) {
        all = true;
        continue;
      }
      at = all ? 0 : (at + Shape::other) % Shape::ring;
      __syncthreads();
      load(i, at, all);
      all = false;
      wait_for_copies<0>();
      __syncthreads();
#pragma unroll 1
      for (int c = 0; c < Shape::other; c += 16) {
        Fragments<1, 16> s;
        gradients(s, i, at, c, added, dropout);
        if (Shape::relative) {
          add<T, D, 16>(sums.table, s, asking().from(c), careful);
        } else {
#pragma unroll
          for (int k = 0; k < 8; ++k) sums.distance[k / 2 % 2] += s[0][k / 4][k % 4];
        }
      }
    }
  }

  PK_DEVICE void run() const {
    const Problem& p = f.call.problem;
    if (Shape::relative) {
      load_table<Shape::own, Shape::threads>(table(), plan.table, plan.first, plan.step, p.table_rows);
    }
    Sums sums;
    for (bool careful = false;; careful = true) {
      gather(sums, careful);
      if (!__syncthreads_or(!careful && Shape::relative && !all_finite<1, D>(sums.table))) break;
    }
    wait_for_copies<0>();
    write(sums);
  }

  PK_DEVICE void write(const Sums& sums) const {
    const Problem& p = f.call.problem;
    const int64_t width = Shape::relative ? p.table_rows : p.distance_width;
    const int64_t of = (plan.place.sequence * p.heads + plan.place.head) * width;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int t = plan.first + row_of(row, 0, 2 * half) * plan.step;
      const float sum = row_sum(sums.distance[half]);
      if (t >= width) continue;
      if (!Shape::relative) {
        if (threadIdx.x % 4 == 0) f.dbias[of + t] = sum;
        continue;
      }
      float* to = f.dbias + (of + t) * p.dr;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int column = column_of(n, e);
          if (column < p.dr) to[column] = sums.table[0][n][2 * half + e] * p.scale;
        }
      }
    }
  }
};

template <class T, int D, Bias B, class Kept = cuda::Kept>
PK_DEVICE void diagonals(const Backward& f) {
  using Shape = DiagonalShape<D * T::halves, B>;
  extern __shared__ uint4 memory[];
  __shared__ DiagonalPlan<Kept> plan;
  const Problem& p = f.call.problem;
  const int64_t width = Shape::relative ? p.table_rows : p.distance_width;
  if (threadIdx.x == 0) set_diagonal_plan<T>(plan, f, Shape::own, static_cast<int>(width));
  __syncthreads();
  DiagonalPass<T, D, B, Kept>{f, plan, shared_address(memory)}.run();
}

}  // namespace cuda
}  // namespace pkernels
