// Forward over a Band (Dao et al. 2022, arXiv:2205.14135, algorithm 1; Dao 2023,
// arXiv:2307.08691, section 3.1), a tile of queries at a time, queries in the lanes:
//
//   Sᵀ = K (scale Q)ᵀ      s = S + bias, -inf where masked
//   m' = max(m, s)         P = exp(s - m')      l' = l exp(m - m') + sum P
//   Oᵀ' = Oᵀ exp(m - m') + Vᵀ (P ∘ Z)           O = Oᵀ' / l,  lse = m + log l
//
// Maximum, sum and rescaling are lane-wise, and K and V are read in their natural layout. A tile
// may hold the queries of several heads that share their keys. It is worked panel by panel, so
// that the scores of a panel never leave the nearest cache.
#pragma once

#include "ahead.h"
#include "kernels.h"
#include "pairs.h"
#include "step.h"

namespace pkernels {
namespace PK_ISA {

// What a panel carries from one tile of keys to the next.
struct Running {
  Panel panel;
  float *qt, *ot;    // [d][lane], [dv][lane]
  float* rt;         // [dr][lane], scaled
  float *top, *sum;  // [lane]
};

struct ForwardScratch {
  int64_t d, dv, dr;  // leading dimensions of rows
  float *state, *s, *bias, *k, *v, *table, *listed[3];
  int64_t panel, size;  // floats of a panel's state, of everything

  ForwardScratch(const Problem& p, int64_t panels, float* memory)
      : d(leading(p.d)), dv(leading(p.dv)), dr(p.dr ? leading(p.dr) : 0) {
    float* next = memory;
    auto take = [&](int64_t n) {
      float* at = next;
      next += round_up(n, 16);
      return at;
    };
    panel = (p.d + p.dv + p.dr + 2) * max_width;
    state = take(panels * panel);
    s = take(max_keys * max_width);
    bias = take(p.dr ? sheared_size : p.distance || p.dense ? (max_keys + 1) * max_width : 0);
    table = take(sheared_rows * dr);
    k = take(max_keys * larger(d, dv)), v = take(max_keys * dv);
    const int64_t lists = p.buckets.chunks ? 1 : 0;  // rows of q, k and v that are copied first
    listed[0] = take(lists * max_width * larger(d, dv)), listed[1] = take(lists * max_keys * d);
    listed[2] = take(lists * max_keys * dv);
    size = next - memory;
  }

  Running running(int64_t i, const Panel& panel_, const Problem& p) const {
    float *at = state + i * panel, *ot = at + p.d * max_width, *rt = ot + p.dv * max_width;
    float* top = rt + p.dr * max_width;
    return {panel_, at, ot, rt, top, top + max_width};
  }
};

static int64_t forward_scratch(const Problem& p, int64_t panels) { return ForwardScratch(p, panels, nullptr).size; }

// Where the rows of a panel's queries are.
static Lines queries_of(const Forward& f, const ForwardScratch& x, const Panel& panel) {
  const Problem& p = f.problem;
  const Place& place = panel.place;
  const QueryTile& tile = panel.queries;
  return lines_of(f.q, p.type, p.storage(place.batch), place.head, p.queries[place.batch].first, tile.first, tile.step,
                  tile.list, tile.count, p.d, x.listed[0], x.d);
}

// Rᵀ of a relative bias.
static void start_relative(const Forward& f, const Running& x) {
  const Problem& p = f.problem;
  const Place& place = x.panel.place;
  const QueryTile& tile = x.panel.queries;
  const int64_t width = x.panel.width, b = p.storage(place.batch), first = p.queries[place.batch].first + tile.first;
  read_relative(p, f.relative_pairs, x.rt, width, width, row_at(p.query, p.type, b, place.head, first),
                p.query.row * tile.step, tile.count);
}

// P in place of S, or its pairs of keys, and the softmax's running state, for N vectors of lanes from
// g on: three at a time, for the maximum and the sum of one are chains of dependent instructions.
template <int N, class KeyTile, bool Packed>
static void soften(const Scores& scores, const KeySegment& segment, int64_t m, int64_t count, int64_t g, float* tile,
                   const Running& x) {
  const int64_t width = scores.width;
  float* s = tile + g * W;
  Vec before[N], top[N], pivot[N], sum[N] = {};
  for (int n = 0; n < N; ++n) top[n] = before[n] = load(x.top + (g + n) * W);
  if (scores.plain()) {
    for (int64_t j = 0; j < count; ++j) {
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) top[n] = maximum(load(s + j * width + n * W), top[n]);
    }
  } else {
    for (int n = 0; n < N; ++n) scores.finish(tile, segment, m, count, g + n, top[n]);
  }
  for (int n = 0; n < N; ++n) pivot[n] = select(top[n] == -infinity, Vec{}, top[n]);  // rows without a key so far
  const auto weight = [&](int64_t j, int n) __attribute__((always_inline)) {
    const Vec p = KeyTile::weight(load(s + j * width + n * W) - pivot[n]);
    sum[n] += p;
    return p;
  };
  for (int64_t j = 0; j < count; j += Packed ? 2 : 1) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      if constexpr (Packed) {
        const Vec low = weight(j, n), high = j + 1 < count ? weight(j + 1, n) : Vec{};
        store(s + j / 2 * width + n * W, KeyTile::pack(low, high));
      } else {
        store(s + j * width + n * W, weight(j, n));
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    const int64_t lane = (g + n) * W;
    const Vec alpha = exp(before[n] - pivot[n]);
    store(x.top + lane, top[n]);
    store(x.sum + lane, load(x.sum + lane) * alpha + sum[n]);
    if (any(alpha != 1.0f)) {
      for (int64_t c = 0; c < scores.problem.dv; ++c) {
        float* o = x.ot + c * width + lane;
        store(o, load(o) * alpha);
      }
    }
    if (!Packed && scores.problem.threshold > 0) {
      scores.for_each_kept(segment, m, count, g + n, [&](int64_t j, const Int& kept) {
        float* at = s + j * width + n * W;
        store(at, (Vec)((Int)load(at) & kept));
      });
    }
  }
}

template <class KeyTile, bool Packed>
static void soften_all(const Scores& scores, const KeySegment& segment, int64_t m, int64_t count, float* tile,
                       const Running& x) {
  int64_t g = 0, vectors = scores.width / W;
  for (; g + 3 <= vectors; g += 3) soften<3, KeyTile, Packed>(scores, segment, m, count, g, tile, x);
  if (vectors - g == 2) soften<2, KeyTile, Packed>(scores, segment, m, count, g, tile, x);
  if (vectors - g == 1) soften<1, KeyTile, Packed>(scores, segment, m, count, g, tile, x);
}

// The rows of a tile of keys and values.
struct KeyRows {
  Lines k, v;
  int64_t count;
};

// Products of float32.
struct FloatTile {
  static constexpr int64_t grain = 1;  // keys that cannot be parted
  Tile k, v;

  PK_INLINE Vec weight(Vec x) { return exp(x); }

  static void start(const Forward& f, const ForwardScratch& scratch, const Running& x) {
    const Problem& p = f.problem;
    const int64_t width = x.panel.width;
    const Lines q = queries_of(f, scratch, x.panel);
    read_transposed(x.qt, width, width, q.data, p.type, q.step, x.panel.queries.count, p.d);
    scale_by(x.qt, p.d * width, p.scale);
  }

  FloatTile(const Forward& f, const ForwardScratch& x, const KeyRows& rows)
      : k(view_rows(x.k, x.d, rows.k.data, f.problem.type, rows.k.step, rows.count, f.problem.d)),
        v(view_rows(x.v, x.dv, rows.v.data, f.problem.type, rows.v.step, rows.count, f.problem.dv)) {}

  // Sᵀ of `n` keys after `skip`.
  void scores(const Problem& p, const Running& run, int64_t skip, int64_t n, float* s, Ahead& ahead) const {
    const int64_t width = run.panel.width;
    interrupted_product<Floats, Plain, Assign>(n, width, p.d, k.data + skip * k.stride, k.stride, run.qt, width, s,
                                               width, [&] { ahead.fetch(); });
  }

  // Oᵀ += Vᵀ P. Where pairs are hidden, a value that is not finite must not meet their zeros.
  void add(const Problem& p, const Running& run, int64_t skip, int64_t n, float* s, bool hidden, Ahead& ahead) const {
    const float* values = v.data + skip * v.stride;
    const int64_t width = run.panel.width;
    if (hidden && !all_finite(values, v.stride, n, p.dv)) {
      careful_product<Transposed, Add>(p.dv, width, n, values, v.stride, s, width, run.ot, width);
    } else {
      interrupted_product<Floats, Transposed, Add>(p.dv, width, n, values, v.stride, s, width, run.ot, width,
                                                   [&] { ahead.fetch(); });
    }
  }
};

#ifdef PK_PAIRS
// Products of bfloat16 pairs: of features for S, of keys for O.
struct PairTile {
  static constexpr int64_t grain = 2;
  const Forward& f;
  const ForwardScratch& x;
  KeyRows rows;
  bool finite;  // the values

  PK_INLINE Vec weight(Vec x) { return coarse_exp(x); }
  PK_INLINE Vec pack(Vec low, Vec high) { return round_pairs(low, high); }

  static void start(const Forward& f, const ForwardScratch& scratch, const Running& x) {
    const Problem& p = f.problem;
    const int64_t width = x.panel.width;
    const Lines q = queries_of(f, scratch, x.panel);
    read_transposed(x.qt, width, width, q.data, Type::f32, q.step / 2, x.panel.queries.count, p.d / 2);
    if (exact(p.scale)) scale_pairs(x.qt, p.d / 2 * width, p.scale);
  }

  PairTile(const Forward& forward, const ForwardScratch& scratch, const KeyRows& keys)
      : f(forward), x(scratch), rows(keys) {
    finite = pack_rows(x.v, x.dv, rows.v.data, rows.v.step, rows.count, f.problem.dv);
  }

  // Whether `add` wants P in pairs: not what dropout or a value that is not finite will change.
  bool packed(const Problem& p, bool hidden) const { return p.threshold == 0 && (finite || !hidden); }

  void scores(const Problem& p, const Running& run, int64_t skip, int64_t n, float* s, Ahead& ahead) const {
    const int64_t width = run.panel.width, stride = rows.k.step / 2;
    interrupted_product<Pairs, Plain, Assign>(n, width, p.d / 2, (const float*)rows.k.data + skip * stride, stride,
                                              run.qt, width, s, width, [&] { ahead.fetch(); });
    if (!exact(p.scale)) scale_by(s, n * width, p.scale);
  }

  void add(const Problem& p, const Running& run, int64_t skip, int64_t n, float* s, bool hidden, Ahead& ahead) const {
    const int64_t width = run.panel.width;
    const float* values = x.v + skip / 2 * x.dv;
    if (!packed(p, hidden)) {
      if (hidden && !finite && !clean(p, run, skip, n, s)) values = x.k;
      pack_weights(s, width, n);
    }
    interrupted_product<Pairs, Transposed, Add>(p.dv, width, (n + 1) / 2, values, x.dv, s, width, run.ot, width,
                                                [&] { ahead.fetch(); });
  }

 private:
  // False if some values are not finite: they are then added where a weight meets them, and x.k
  // holds the pairs with zeros in their place.
  bool clean(const Problem& p, const Running& run, int64_t skip, int64_t n, const float* s) const {
    const int64_t width = run.panel.width, step = rows.v.step;
    read_rows(x.k, x.dv, rows.v.data + skip * step * 2, Type::bf16, step, n, p.dv);
    if (all_finite(x.k, x.dv, n, p.dv)) return true;
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t c = 0; c < p.dv; ++c) {
        float& value = x.k[j * x.dv + c];
        if (value * 0 == 0) continue;
        for (int64_t i = c * width; i < (c + 1) * width; i += W) {
          const Vec weight = load(s + j * width + i - c * width), sum = load(run.ot + i);
          store(run.ot + i, select(weight == 0.0f, sum, sum + weight * value));
        }
        value = 0;
      }
    }
    pack_weights(x.k, x.dv, n);
    return false;
  }
};
#endif

// A tile of keys meets a panel.
template <class KeyTile>
static void visit(const Forward& f, const ForwardScratch& x, const Running& run, const KeySegment& segment, int64_t m,
                  int64_t count, const KeyTile& tile, Ahead& ahead) {
  const Problem& p = f.problem;
  const KeyRange keys = seen(p.band, segment, run.panel, {m, m + count});
  if (keys.begin == keys.end) return;
  constexpr int64_t grain = KeyTile::grain;
  const int64_t width = run.panel.width, skip = (keys.begin - m) / grain * grain;
  const int64_t n = smaller(count, round_up(keys.end - m, grain)) - skip;
  const KeySegment from = from_panel(segment, run.panel);
  Scores scores{p, run.panel.place, run.panel.queries, width, width, x.bias, {run.rt, x.table, x.dr, f.relative_pairs}};
  scores.enter(from, m + skip, n);
  tile.scores(p, run, skip, n, x.s, ahead);
  const bool hidden = scores.masked || p.dense;
  if constexpr (grain > 1) {
    tile.packed(p, hidden) ? soften_all<KeyTile, true>(scores, from, m + skip, n, x.s, run)
                           : soften_all<KeyTile, false>(scores, from, m + skip, n, x.s, run);
  } else {
    soften_all<KeyTile, false>(scores, from, m + skip, n, x.s, run);
  }
  tile.add(p, run, skip, n, x.s, hidden, ahead);
}

// A panel that meets all its keys in one go: it starts with none and writes its results.
struct Complete {
  void start(const Forward& f, const ForwardScratch&, const Running& x) const {
    const int64_t width = x.panel.width;
    fill_zero(x.ot, f.problem.dv * width);
    fill_zero(x.sum, width);
    for (int64_t c = 0; c < width; c += W) store(x.top + c, splat(-infinity));
  }

  void finish(const Forward& f, const ForwardScratch&, const Running& x) const {
    const Problem& p = f.problem;
    const QueryTile& queries = x.panel.queries;
    const Place& place = x.panel.place;
    const int64_t b = p.storage(place.batch), first = p.queries[place.batch].first + queries.first;
    float* lse = f.lse + b * f.lse_batch + place.head * f.lse_head + first;
    for (int64_t c = 0; c < x.panel.width; c += W) {
      const Vec sum = load(x.sum + c);
      const Int empty = sum == 0.0f;
      store(x.sum + c, select(empty, Vec{}, p.keep_scale / sum));
      store(x.top + c, select(empty, splat(-infinity), load(x.top + c) + log(sum)));
    }
    for (int64_t c = 0; c < queries.count; ++c) lse[c * queries.step] = x.top[c];
    write_transposed((char*)row_at(f.out, p.type, b, place.head, first), p.type, f.out.row * queries.step, x.ot,
                     x.panel.width, x.sum, queries.count, p.dv);
  }
};

// Calls f(KeyTileAt, the next one or nullptr) for the keys that a tile of queries visits.
template <class F>
static void for_each_key_tile_and_next(const Problem& p, int64_t batch, int64_t head, const QueryTile& tile,
                                       const F& f) {
  KeyTileAt last{{}, 0, 0};
  for_each_segment(p, batch, head, tile, [&](const KeySegment& segment) {
    for (int64_t m = 0; m < segment.count; m += max_keys) {
      const KeyTileAt now{segment, m, smaller(max_keys, segment.count - m)};
      if (last.count > 0) f(last, &now);
      last = now;
    }
  });
  if (last.count > 0) f(last, nullptr);
}

template <class KeyTile, class Ends>
static void forward_with(const Forward& f, const Item& item, const Item* next, float* memory, const Ends& ends) {
  const Problem& p = f.problem;
  const ForwardScratch x(p, f.panels, memory);
  const int64_t batch = item.batch, head = item.head, b = p.storage(batch), kv = head / p.group();
  const int64_t n_q = p.queries[batch].count, n_k = p.keys[batch].count;
  Running runs[max_panels];
  int64_t panels = 0;
  for (int64_t h = head; h < head + item.heads; ++h) {
    for_each_panel(Place{batch, h, n_q, n_k}, item.queries, [&](const Panel& panel) {
      runs[panels] = x.running(panels, panel, p);
      ends.start(f, x, runs[panels]);
      if (p.dr) start_relative(f, runs[panels]);
      KeyTile::start(f, x, runs[panels++]);
    });
  }
  for_each_key_tile_and_next(p, batch, head, item.queries, [&](const KeyTileAt& now, const KeyTileAt* then) {
    const KeySegment& segment = now.segment;
    const int64_t start = p.keys[batch].first, first = segment.first + now.m * segment.step;
    const int32_t* list = segment.list ? segment.list + now.m : nullptr;
    const auto lines = [&](const Rows& rows, int64_t width, float* copy, int64_t ld) {
      return lines_of(rows, p.type, b, kv, start, first, segment.step, list, now.count, width, copy, ld);
    };
    Ahead ahead;
    if (then) {
      ahead.add(f, batch, kv, *then);
    } else if (next) {
      ahead.add(f, *next);
    }
    ahead.spread(panels * (now.count + p.dv) / block_rows[block_columns]);
    const KeyTile keys(f, x, {lines(f.k, p.d, x.listed[1], x.d), lines(f.v, p.dv, x.listed[2], x.dv), now.count});
    for (int64_t r = 0; r < panels; ++r) visit(f, x, runs[r], segment, now.m, now.count, keys, ahead);
  });
  for (int64_t r = 0; r < panels; ++r) ends.finish(f, x, runs[r]);
}

static void forward(const Forward& f, const Item& item, const Item* next, float* memory) {
#ifdef PK_PAIRS
  if (f.pairs) return forward_with<PairTile>(f, item, next, memory, Complete{});
#endif
  forward_with<FloatTile>(f, item, next, memory, Complete{});
}

}  // namespace PK_ISA
}  // namespace pkernels
