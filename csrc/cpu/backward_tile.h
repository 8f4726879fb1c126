// P and dS of a tile of keys against a tile of queries (Dao et al. 2022, arXiv:2205.14135,
// algorithm 4, lines 11 to 20), queries in the lanes:
//
//   Pᵀ = exp(Sᵀ - lse)      dPᵀ = V dOᵀ ∘ Zᵀ      delta = rowsum(dO ∘ O)
//   dSᵀ = Pᵀ ∘ (dPᵀ - delta + dlse)
#pragma once

#include "kernels.h"
#include "pairs.h"
#include "step.h"

namespace pkernels {
namespace PK_ISA {

constexpr int64_t edge_keys = max_keys / 2;     // where a band cuts a tile: less of it is for nothing
constexpr int64_t max_lanes = 3 * PK_PANEL;     // queries of a tile, at most
constexpr int64_t tile_width = max_lanes + 16;  // leading dimension of what has lanes, at most

struct BackwardScratch {
  int64_t d, dv, dr;  // leading dimensions of rows
  float* listed[5];   // rows of q, dout, out, k and v that are copied first
  float *q, *dout, *qt, *dot, *dqt, *p, *ds, *packed, *bias, *k, *v, *lse, *own, *dlse, *delta, *diagonal, *dk, *dvs;
  float *r, *rt, *drt, *table;  // of a relative bias; r is scaled
  int64_t size;

  BackwardScratch(const Problem& problem, int64_t keys, float* memory)
      : d(leading(problem.d)), dv(leading(problem.dv)), dr(problem.dr ? leading(problem.dr) : 0) {
    float* next = memory;
    auto take = [&](int64_t n) {
      float* at = next;
      next += round_up(n, 16);
      return at;
    };
    q = take(max_lanes * d), dout = take(max_lanes * dv);
    qt = take(problem.d * tile_width), dqt = take(problem.d * tile_width);
    dot = take(problem.dv * tile_width);
    p = take(max_keys * tile_width), ds = take(max_keys * tile_width);
    packed = take(2 * max_keys * tile_width);  // of P and of dS, in pairs
    static_assert((max_keys + 1) * tile_width >= sheared_size);
    bias = take((max_keys + 1) * tile_width);
    r = take(max_lanes * dr), rt = take(problem.dr * tile_width), drt = take(problem.dr * tile_width);
    table = take(sheared_rows * dr);
    k = take(max_keys * d), v = take(max_keys * dv);
    lse = take(max_lanes), own = take(max_lanes), dlse = take(max_lanes), delta = take(max_lanes);
    diagonal = take(4 * (max_keys + tile_width));
    const int64_t lists = problem.buckets.chunks ? 1 : 0;
    listed[0] = take(lists * max_lanes * d), listed[1] = take(lists * max_lanes * dv);
    listed[2] = take(lists * max_lanes * dv), listed[3] = take(lists * max_keys * d);
    listed[4] = take(lists * max_keys * dv);
    dk = take(keys * d), dvs = take(keys * dv);
    size = next - memory;
  }
};

static int64_t backward_scratch(const Problem& p, int64_t keys) { return BackwardScratch(p, keys, nullptr).size; }

// One tile of queries and what the tiles of keys need of it.
struct QuerySide {
  const Backward& f;
  Place place;
  QueryTile queries;
  BackwardScratch& x;
  int64_t used, width;  // lanes in use, and the leading dimension of what has lanes
  Tile q, dout;         // rows, read in whole vectors; or pairs of rows, cleaned
  bool finite, dout_finite = true, r_finite = true;

  QuerySide(const Backward& backward, const Place& where, const QueryTile& tile, BackwardScratch& scratch)
      : f(backward), place(where), queries(tile), x(scratch), used(round_up(tile.count, W)), width(leading(used)) {
    const Problem& p = f.problem;
    const int64_t b = p.storage(place.batch), start = p.queries[place.batch].first, n = queries.count;
    const auto lines = [&](const Rows& rows, int64_t features, float* copy, int64_t ld) {
      return lines_of(rows, p.type, b, place.head, start, queries.first, queries.step, queries.list, n, features, copy,
                      ld);
    };
    const Lines q_rows = lines(f.q, p.d, x.listed[0], x.d), dout_rows = lines(f.dout, p.dv, x.listed[1], x.dv),
                out_rows = lines(f.out, p.dv, x.listed[2], x.dv);
    // P serves as scratch for Oᵀ, max_keys columns at a time.
    read_transposed(x.dot, width, used, dout_rows.data, p.type, dout_rows.step, n, p.dv);
    read_transposed(x.p, width, used, out_rows.data, p.type, out_rows.step, n, smaller(p.dv, max_keys));
    for (int64_t g = 0; g < used; g += W) store(x.delta + g, delta(g, 0, smaller(p.dv, max_keys), Vec{}));
    for (int64_t c = max_keys; c < p.dv; c += max_keys) {
      const int64_t m = smaller(max_keys, p.dv - c);
      read_transposed(x.p, width, used, out_rows.data + c * bytes_of(p.type), p.type, out_rows.step, n, m);
      for (int64_t g = 0; g < used; g += W) store(x.delta + g, delta(g, c, m, load(x.delta + g)));
    }
    read_numbers(b, start);
    if (p.dr) {
      const Lines r_rows = lines(p.query, p.dr, nullptr, 0);
      read_relative(p, f.relative_pairs, x.rt, width, used, r_rows.data, r_rows.step, n);
      read_relative_rows(r_rows);
    }
#ifdef PK_PAIRS
    if (f.pairs) {
      read_transposed(x.dot, width, used, dout_rows.data, Type::f32, dout_rows.step / 2, n, p.dv / 2);
      read_transposed(x.qt, width, used, q_rows.data, Type::f32, q_rows.step / 2, n, p.d / 2);
      if (exact(p.scale)) scale_pairs(x.qt, p.d / 2 * width, p.scale);
      q = Tile{x.q, x.d}, dout = Tile{x.dout, x.dv};
      finite = read_row_pairs(x.q, x.d, q_rows.data, q_rows.step, n, p.d);
      finite &= dout_finite = read_row_pairs(x.dout, x.dv, dout_rows.data, dout_rows.step, n, p.dv);
      return;
    }
#endif
    read_transposed(x.qt, width, used, q_rows.data, p.type, q_rows.step, n, p.d);
    scale_by(x.qt, p.d * width, p.scale);
    q = view_whole_rows(x.q, x.d, q_rows.data, p.type, q_rows.step, n, p.d);
    dout = view_whole_rows(x.dout, x.dv, dout_rows.data, p.type, dout_rows.step, n, p.dv);
    finite = all_finite(q.data, q.stride, n, p.d) && all_finite(dout.data, dout.stride, n, p.dv);
  }

  // Scaled rows of R, or pairs of rows, cleaned; those are scaled if that takes no rounding.
  void read_relative_rows(const Lines& rows) {
    const Problem& p = f.problem;
#ifdef PK_PAIRS
    if (f.relative_pairs) {
      read_row_pairs(x.r, x.dr, rows.data, rows.step, queries.count, p.dr);
      if (exact(p.scale)) scale_pairs(x.r, ceil_div(queries.count, 2) * x.dr, p.scale);
      return;
    }
#endif
    read_rows(x.r, x.dr, rows.data, p.type, rows.step, queries.count, p.dr);
    scale_by(x.r, queries.count * x.dr, p.scale);
    r_finite = all_finite(x.r, x.dr, queries.count, p.dr);
  }

  // rowsum(dO ∘ O) over some columns, added up in the order in which `product` adds up dP: a row
  // with a single key, where O is its value, then has dP - delta = 0 to the last bit.
  __attribute__((always_inline)) inline Vec delta(int64_t g, int64_t first, int64_t columns, Vec sum) const {
    for (int64_t c = 0; c < columns; ++c) sum += load(x.p + c * width + g) * load(x.dot + (first + c) * width + g);
    return sum;
  }

  void read_numbers(int64_t b, int64_t start) {
    const float* lse = f.lse + b * f.lse_batch + place.head * f.lse_head + start;
    const float* dlse = f.dlse ? f.dlse + b * f.dlse_batch + place.head * f.dlse_head + start * f.dlse_row : nullptr;
    for (int64_t c = 0; c < used; ++c) {
      const int64_t row = c >= queries.count ? 0 : queries.list ? queries.list[c] : queries.first + c * queries.step;
      const bool empty = c >= queries.count || lse[row] == -infinity;
      x.lse[c] = empty ? 0 : lse[row];
      x.dlse[c] = empty || !dlse ? 0 : dlse[row * f.dlse_row];
    }
    if (f.problem.buckets.given) separate_last_resorts();
  }

  // Of a row that sees nothing but itself, the lse is own + log(count), rounded so much that
  // exp(own - lse) is not 1 / count. The count is a whole number: it can be told, and both are
  // moved to where they are exact.
  void separate_last_resorts() {
    const float own = f.problem.buckets.own;
    for (int64_t c = 0; c < used; ++c) {
      const float above = x.lse[c] - own;
      const bool alone = own < -1000 && above < 5;
      x.own[c] = alone ? 0 : own;
      if (!alone) continue;
      const float count = exp(splat(above))[0];
      x.lse[c] = log(splat((float)(int32_t)(count + 0.5f)))[0];
    }
  }
};

// One tile of keys against a tile of queries: x.p becomes P ∘ Z and x.ds becomes dS.
struct KeySide {
  Tile k, v;
  int64_t lane, lanes;  // those that may keep some key; P and dS are 0 beyond them, or not used
  bool safe = true;     // plain products do: nothing masked meets anything that is not finite

  KeySide(const QuerySide& side, const KeySegment& segment, int64_t m, int64_t count) : lane(side.used), lanes(0) {
    const Backward& f = side.f;
    const Problem& p = f.problem;
    BackwardScratch& x = side.x;
    const int64_t b = p.storage(side.place.batch), kv = side.place.head / p.group();
    const int64_t start = p.keys[side.place.batch].first, first = segment.first + m * segment.step;
    const int32_t* list = segment.list ? segment.list + m : nullptr;
    const auto lines = [&](const Rows& rows, int64_t width, float* copy, int64_t ld) {
      return lines_of(rows, p.type, b, kv, start, first, segment.step, list, count, width, copy, ld);
    };
    const Lines k_rows = lines(f.k, p.d, x.listed[3], x.d), v_rows = lines(f.v, p.dv, x.listed[4], x.dv);
    if (f.pairs) {
      k = Tile{(const float*)k_rows.data, k_rows.step / 2}, v = Tile{(const float*)v_rows.data, v_rows.step / 2};
#ifdef PK_PAIRS
      read_row_pairs(x.k, x.d, k_rows.data, k_rows.step, count, p.d);
#endif
    } else {
      k = view_rows(x.k, x.d, k_rows.data, p.type, k_rows.step, count, p.d);
      v = view_rows(x.v, x.dv, v_rows.data, p.type, v_rows.step, count, p.dv);
    }
    int64_t end = 0;
    bool masked = p.dense;
    for_each_panel(side.place, side.queries, [&](const Panel& panel) {
      const KeyRange keys = seen(p.band, segment, panel, {m, m + count});
      if (keys.begin == keys.end) return;
      lane = smaller(lane, panel.lane), end = panel.lane + panel.width;
      masked |= visit(side, from_panel(segment, panel), panel, keys, m, count);
    });
    lanes = larger(0, end - lane);
    // Pairs were cleaned, so that plain products always do.
    safe = f.pairs || !masked || (side.finite && all_finite(k.data, k.stride, count, p.d));
  }

 private:
  static void multiply(const QuerySide& side, int64_t n, int64_t lanes, int64_t depth, const Tile& rows, int64_t skip,
                       const float* columns, float* to) {
    const float* from = rows.data + skip * rows.stride;
#ifdef PK_PAIRS
    if (side.f.pairs) {
      return product<Pairs, Plain, Assign>(n, lanes, depth / 2, from, rows.stride, columns, side.width, to, side.width);
    }
#endif
    product<Floats, Plain, Assign>(n, lanes, depth, from, rows.stride, columns, side.width, to, side.width);
  }

  // The columns of a panel; returns whether they hold pairs that are not kept.
  bool visit(const QuerySide& side, const KeySegment& segment, const Panel& panel, KeyRange keys, int64_t m,
             int64_t count) const {
    const Problem& p = side.f.problem;
    BackwardScratch& x = side.x;
    const int64_t width = side.width, at = panel.lane, n = keys.end - keys.begin, skip = keys.begin - m;
    float *weights = x.p + at, *ds = x.ds + at;
    Scores scores{
        p, panel.place, panel.queries, panel.width, width, x.bias, {x.rt + at, x.table, x.dr, side.f.relative_pairs}};
    if (p.buckets.given) scores.own = x.own + at;
    scores.enter(segment, keys.begin, n);
    float *s = weights + skip * width, *dp = ds + skip * width;
    multiply(side, n, panel.width, p.d, k, skip, x.qt + at, s);
    multiply(side, n, panel.width, p.dv, v, skip, x.dot + at, dp);
#ifdef PK_PAIRS
    if (side.f.pairs && !exact(p.scale)) {
      for (int64_t j = 0; j < n; ++j) scale_by(s + j * width, panel.width, p.scale);
    }
#endif
    for (int64_t g = 0; g * W < panel.width; ++g) {
      Vec top = {};
      if (!scores.plain()) scores.finish(s, segment, keys.begin, n, g, top);
      if (p.keep_scale != 1) {
        dropped(x, scores, segment, keys.begin, n, g, at, s, dp);
      } else {
        plain(x, width, n, g, at, s, dp, scores.masked || p.dense);
      }
      scores.clear_own(dp, segment, keys.begin, n, g);
    }
    for (int64_t j = 0; j < count; ++j) {
      if (j == skip) j += n;
      if (j < count) fill_zero(weights + j * width, panel.width), fill_zero(ds + j * width, panel.width);
    }
    return scores.masked || n < count;
  }

  static void plain(const BackwardScratch& x, int64_t width, int64_t count, int64_t g, int64_t lane, float* s,
                    float* dp, bool masked) {
    const int64_t at = lane + g * W;
    const Vec lse = load(x.lse + at), delta = load(x.delta + at), dlse = load(x.dlse + at);
    for (int64_t j = 0; j < count; ++j) {
      float *p = s + j * width + g * W, *ds = dp + j * width + g * W;
      const Vec score = load(p);
      const Vec weight = exp(score - lse);
      const Vec gradient = weight * (load(ds) - delta + dlse);
      // Not weight == 0: the lse of a row that is NaN must not spread to keys it does not see.
      const Int hidden = score == -infinity;
      store(p, masked ? select(hidden, Vec{}, weight) : weight);
      store(ds, masked ? select(hidden, Vec{}, gradient) : gradient);
    }
  }

  static void dropped(const BackwardScratch& x, const Scores& scores, const KeySegment& segment, int64_t m,
                      int64_t count, int64_t g, int64_t lane, float* s, float* dps) {
    const int64_t at = lane + g * W;
    const Vec lse = load(x.lse + at), delta = load(x.delta + at), dlse = load(x.dlse + at);
    const float keep_scale = scores.problem.keep_scale;
    scores.for_each_kept(segment, m, count, g, [&](int64_t j, const Int& kept) {
      float *p = s + j * scores.width + g * W, *ds = dps + j * scores.width + g * W;
      const Vec score = load(p);
      const Vec weight = exp(score - lse);
      const Int hidden = score == -infinity;
      const Vec dp = select(kept, load(ds) * keep_scale, Vec{});
      store(p, select(kept & ~hidden, weight * keep_scale, Vec{}));
      store(ds, select(hidden, Vec{}, weight * (dp - delta + dlse)));
    });
  }
};

// Calls f(segment, m, count) for tiles of the keys that a tile of queries visits in a range.
template <class F>
static void for_each_key_tile(const Problem& p, const Place& place, const QueryTile& queries, KeyRange keys, F f) {
  for_each_segment(p, place.batch, place.head, queries, [&](const KeySegment& found) {
    const KeySegment segment = found.list ? found : clip(found, keys.begin, keys.end);
    for (int64_t m = 0, count; m < segment.count; m += count) {
      count = smaller(max_keys, segment.count - m);
      if (!found.list && !is_full(p.band, segment, queries, m, count)) count = smaller(edge_keys, count);
      f(segment, m, count);
    }
  });
}

}  // namespace PK_ISA
}  // namespace pkernels
