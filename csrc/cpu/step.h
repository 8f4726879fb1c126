// The tile step: scores of a tile of keys (rows) against a tile of queries (lanes), what is
// added to them, what is masked, and what dropout removes. Forward and backward share it.
#pragma once

#include "../visits.h"
#include "exponential.h"
#include "philox.h"
#include "product.h"
#include "relative.h"
#include "rows.h"

namespace pkernels {
namespace PK_ISA {

constexpr int64_t max_keys = PK_KEYS;    // keys of a tile, at most
constexpr int64_t max_width = PK_PANEL;  // lanes of a panel, at most

PK_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The leading dimension of rows of n floats: an odd number of cache lines, so that they spread
// over all sets of the cache.
PK_INLINE int64_t leading(int64_t n) { return (n + 15) / 16 * 16 + ((n + 15) / 16 % 2 ? 0 : 16); }

// One sequence and head of a call.
struct Place {
  int64_t batch, head, n_q, n_k;
};

// Neighbouring queries of one head, few enough that their scores against a tile of keys stay in
// the nearest cache.
struct Panel {
  Place place;
  QueryTile queries;
  int64_t lane;   // its first query, counted from the first one of the tile
  int64_t width;  // lanes: its queries rounded up to whole vectors
};

// Calls f(Panel) for panels, of nearly the same width, that cover a tile.
template <class F>
static void for_each_panel(const Place& place, const QueryTile& tile, F f) {
  int64_t left = ceil_div(tile.count, W), lane = 0;
  for (int64_t panels = ceil_div(left * W, max_width); panels > 0; --panels) {
    const int64_t vectors = ceil_div(left, panels), count = smaller(vectors * W, tile.count - lane);
    const int32_t* list = tile.list ? tile.list + lane : nullptr;
    f(Panel{place, {tile.first + lane * tile.step, tile.step, count, tile.everything, list}, lane, vectors * W});
    left -= vectors, lane += count;
  }
}

// The keys [begin, end) of a segment that some query of a panel may keep.
PK_INLINE KeyRange seen(const Band& band, const KeySegment& segment, const Panel& panel, KeyRange keys) {
  if (!segment.banded) return keys;
  const int64_t at = panel.lane - segment.offset;
  const int64_t begin = larger(keys.begin, at - band.left);
  return {begin, larger(begin, smaller(keys.end, at + panel.queries.count + band.right))};
}

// A segment of a tile's keys, counted from a panel's first query.
PK_INLINE KeySegment from_panel(KeySegment segment, const Panel& panel) {
  segment.offset -= panel.lane;
  return segment;
}

// Scores of a tile of keys against a panel: s[key][lane], `width` floats apart.
struct Scores {
  const Problem& problem;
  const Place& place;
  const QueryTile& queries;
  int64_t used;   // lanes in use: the queries rounded up to whole vectors
  int64_t width;  // leading dimension of s and of bias
  float* bias;    // scratch, (max_keys + 1) * width, or sheared_size
  RelativeSide relative = {};
  bool masked = false;
  const float* bias_row = nullptr;  // row 0; nullptr: no bias
  int64_t bias_step = 0;

  bool placed = false;  // rows come from lists, and pairs may depend on them
  float added = 0;
  const float* own = nullptr;  // [lane], what a row scores against itself; nullptr: as it was given

  bool biased() const { return problem.distance || problem.dense || problem.dr; }

  // Prepare for keys [m, m + count) of a segment, which counts from the first query.
  void enter(const KeySegment& segment, int64_t m, int64_t count) {
    placed = segment.list && (problem.buckets.causal || problem.buckets.given);
    masked = segment.list ? problem.buckets.causal : !is_full(problem.band, segment, queries, m, count);
    added = segment.added;
    if (problem.dense) {
      fill_dense(segment, m, count);
    } else if (problem.distance) {
      fill_distance(segment, m, count);
    } else if (problem.dr) {
      fill_relative(segment, m, count);
    }
  }

  // bias[key][lane].
  void fill_dense(const KeySegment& segment, int64_t m, int64_t count) {
    const Problem& p = problem;
    const int64_t size = bytes_of(p.dense_type), column = segment.first + m * segment.step;
    const int64_t column_step = p.dense_column * segment.step, row_step = p.dense_row * queries.step;
    const char* base = (const char*)p.dense + (place.batch * p.dense_batch + place.head * p.dense_head +
                                               queries.first * p.dense_row + column * p.dense_column) *
                                                  size;
    bias_row = bias, bias_step = width;
    if (row_step == 0) {
      for (int64_t j = 0; j < count; ++j) {
        const Vec value = splat(load_one(base + j * column_step * size, p.dense_type));
        for (int64_t c = 0; c < used; c += W) store(bias + j * width + c, value);
      }
    } else if (column_step == 1) {
      read_transposed(bias, width, used, base, p.dense_type, row_step, queries.count, count);
    } else {
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t c = 0; c < used; ++c) {
          const char* at = base + (c * row_step + j * column_step) * size;
          bias[j * width + c] = c < queries.count ? load_one(at, p.dense_type) : 0.0f;
        }
      }
    }
  }

  // Where queries and keys advance together, row j is row 0 shifted by j lanes.
  void fill_distance(const KeySegment& segment, int64_t m, int64_t count) {
    const Problem& p = problem;
    const float* values = p.distance + place.head * p.distance_head;
    const int64_t start = segment.first + m * segment.step - queries.first + p.zero;
    if (segment.step == queries.step) {
      for (int64_t u = 0; u < count - 1 + used; ++u) {
        const int64_t t = start + (count - 1 - u) * segment.step;
        bias[u] = t >= 0 && t < p.distance_width ? values[t] : 0.0f;
      }
      bias_row = bias + count - 1, bias_step = -1;
      return;
    }
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t c = 0; c < used; ++c) {
        const int64_t t = start + j * segment.step - c * queries.step;
        bias[j * width + c] = t >= 0 && t < p.distance_width ? values[t] : 0.0f;
      }
    }
    bias_row = bias, bias_step = width;
  }

  void fill_relative(const KeySegment& segment, int64_t m, int64_t count) {
    const Problem& p = problem;
    bias_row = bias, bias_step = used;
    if (segment.step != queries.step) return fill_relative_apart(segment, m, count);
    const TableRows rows(p, segment, m, count, queries, used);
    fill_zero(bias, rows.begin * used);
    multiply_table(p, place.head, rows, relative, used, width, bias + rows.begin * used);
    fill_zero(bias + rows.end * used, (rows.count - rows.end) * used);
    shear_rows(bias, used, count);
  }

  void fill_relative_apart(const KeySegment& segment, int64_t m, int64_t count) {
    const Problem& p = problem;
    fill_zero(bias, count * used);
    for_each_apart(p, segment, m, count, queries, [&](int64_t j, int64_t c, int64_t row) {
      const char* from = row_at(p.table, p.type, 0, place.head, row);
      float sum = 0;
      for (int64_t i = 0; i < p.dr; ++i) {
        sum += relative.rt[i * width + c] * load_one(from + i * bytes_of(p.type), p.type);
      }
      bias[j * used + c] = sum;
    });
  }

  // Which lanes of vector g keep key j of the tile.
  __attribute__((always_inline)) inline Int kept(const KeySegment& segment, int64_t key, int64_t g) const {
    const int32_t offset = (int32_t)(key + segment.offset - g * W);
    const Int step = offset - lanes();
    return (step >= (int32_t)-problem.band.left) & (step <= (int32_t)problem.band.right);
  }

  // Whether the products are the scores: nothing is added, nothing masked.
  bool plain() const { return !masked && !biased() && !placed && added == 0; }

  // The rows of the queries in vector g; what lies beyond a list's end is of no use, but there.
  __attribute__((always_inline)) inline Int rows_of_lanes(int64_t g) const {
    if (queries.list) return load_int(queries.list + g * W);
    return (int32_t)(queries.first + g * W * queries.step) + lanes() * (int32_t)queries.step;
  }
  static int64_t row_of_key(const KeySegment& segment, int64_t key) {
    return segment.list ? segment.list[key] : segment.first + key * segment.step;
  }

  // What a mask by rows makes of the scores.
  void place_rows(float* s, const KeySegment& segment, int64_t m, int64_t count, int64_t g, Vec& maxima) const {
    const Int rows = rows_of_lanes(g);
    const Vec itself = own ? load(own + g * W) : splat(problem.buckets.own);
    const bool causal = problem.buckets.causal, given = problem.buckets.given;
    Vec top = maxima;
    for (int64_t j = 0; j < count; ++j) {
      const Int key = isplat(segment.list[m + j]);
      float* at = s + j * width + g * W;
      Vec x = load(at);
      if (given) x = select(rows == key, itself, x);
      if (causal) x = select(rows < key, splat(-infinity), x);
      store(at, x);
      top = maximum(x, top);
    }
    maxima = top;
  }

  // No score was computed of a row and itself where it was given: dS = 0.
  void clear_own(float* ds, const KeySegment& segment, int64_t m, int64_t count, int64_t g) const {
    if (!placed || !problem.buckets.given) return;
    const Int rows = rows_of_lanes(g);
    for (int64_t j = 0; j < count; ++j) {
      float* at = ds + j * width + g * W;
      store(at, select(rows == isplat(segment.list[m + j]), Vec{}, load(at)));
    }
  }

  // s = s + bias, -inf where masked; raises `top` to the lanes' maximum. (Vectors go by reference:
  // how wide ones are passed differs among targets.)
  void finish(float* s, const KeySegment& segment, int64_t m, int64_t count, int64_t g, Vec& top) const {
    if (placed) return place_rows(s, segment, m, count, g, top);
    for (int64_t j = 0; added != 0 && j < count; ++j) {
      float* at = s + j * width + g * W;
      store(at, load(at) + added);
    }
    // Keys that all lanes of the vector keep lie between those that some do not.
    const int64_t lane = g * W - segment.offset - m;
    const int64_t begin = masked ? within(lane + W - 1 - problem.band.left, count) : 0;
    const int64_t end = masked ? larger(begin, within(lane + problem.band.right + 1, count)) : count;
    const auto rows = [&]<bool Masked>(int64_t from, int64_t to) {
      biased() ? apply<true, Masked>(s, segment, m, from, to, g, top)
               : apply<false, Masked>(s, segment, m, from, to, g, top);
    };
    rows.template operator()<true>(0, begin);
    rows.template operator()<false>(begin, end);
    rows.template operator()<true>(end, count);
  }

  static int64_t within(int64_t x, int64_t count) { return smaller(count, larger(0, x)); }

  template <bool Biased, bool Masked>
  void apply(float* s, const KeySegment& segment, int64_t m, int64_t from, int64_t to, int64_t g, Vec& maxima) const {
    Vec top = maxima;
    for (int64_t j = from; j < to; ++j) {
      float* at = s + j * width + g * W;
      Vec x = load(at);
      if constexpr (Biased) {
        const Vec b = load(bias_row + j * bias_step + g * W);
        x = select(b == -infinity, splat(-infinity), x + b);
      }
      if constexpr (Masked) x = select(kept(segment, m + j, g), x, splat(-infinity));
      if constexpr (Biased || Masked) store(at, x);
      top = maximum(x, top);
    }
    maxima = top;
  }

  // f(key of the tile, keep mask of the lanes of vector g) for every key.
  template <class F>
  void for_each_kept(const KeySegment& segment, int64_t m, int64_t count, int64_t g, F f) const {
    const Philox philox{problem.seed, (uint32_t)place.head, (uint32_t)place.batch};
    const Int row = rows_of_lanes(g);
    UInt words[4];
    int64_t group = -1;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t key = row_of_key(segment, m + j);
      if (key / 8 != group) {
        group = key / 8;
        Philox::draw(philox, (UInt)row, (uint32_t)group, words);
      }
      const UInt word = words[(key % 8) / 2];
      const UInt bits = key % 2 ? word >> 16 : word & 0xFFFF;
      const Int survives = (Int)(bits >= problem.threshold);
      f(j, survives);
    }
  }
};

}  // namespace PK_ISA
}  // namespace pkernels
