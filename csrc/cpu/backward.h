// Backward over a Band (Dao et al. 2022, arXiv:2205.14135, algorithm 4), in one pass: a
// worker owns some keys of one key head, so dK and dV are its own.
//
//   dQᵀ += scale Kᵀ dSᵀ     dK += scale dSᵀ Q     dV += (P ∘ Z)ᵀ dO
#pragma once

#include "backward_tile.h"
#include "bias_gradient.h"

namespace pkernels {
namespace PK_ISA {

// A part's share of the gradient of a tile's queries, which lies transposed at `from`.
static void write_share(const QuerySide& side, const Shares& x, const float* from, int64_t part) {
  const Problem& p = side.f.problem;
  const int64_t b = p.storage(side.place.batch);
  Rows to = x.to;
  Type type = p.type;
  if (x.parts) to = x.part, to.data = x.parts + part * x.size, type = Type::f32;
  float scale[W];
  store(scale, splat(p.scale));
  const int64_t first = p.queries[side.place.batch].first + side.queries.first;
  for (int64_t c = 0; c < side.queries.count; c += W) {
    write_transposed((char*)row_at(to, type, b, side.place.head, first + c * side.queries.step), type,
                     to.row * side.queries.step, from + c, side.width, scale, smaller(W, side.queries.count - c),
                     x.width);
  }
}

#ifdef PK_PAIRS
// dV of what is not finite in dO, which its pairs leave out.
static void add_lost(const QuerySide& side, const KeySide& tile, int64_t count, float* dv, int64_t dv_step) {
  const Backward& f = side.f;
  const Problem& p = f.problem;
  const QueryTile& queries = side.queries;
  const int64_t end = smaller(tile.lane + tile.lanes, side.queries.count);
  for (int64_t c = tile.lane; c < end; ++c) {
    const int64_t at = queries.list ? queries.list[c] : queries.first + c * queries.step;
    const char* row =
        row_at(f.dout, p.type, p.storage(side.place.batch), side.place.head, p.queries[side.place.batch].first + at);
    for (int64_t i = 0; i < p.dv; ++i) {
      const float value = load_one(row + 2 * i, p.type);
      if (value * 0 == 0) continue;
      for (int64_t j = 0; j < count; ++j) {
        const float weight = side.x.p[j * side.width + c];
        if (weight != 0) dv[j * dv_step + i] += weight * value;
      }
    }
  }
}

static void add_pairs(const QuerySide& side, const KeySide& tile, int64_t count, int64_t row, int64_t row_step) {
  const Problem& p = side.f.problem;
  BackwardScratch& x = side.x;
  const int64_t lane = tile.lane, lanes = tile.lanes, width = side.width;
  const int64_t pairs_of_queries = (smaller(lanes, side.queries.count - lane) + 1) / 2;
  if (lanes == 0) return;
  float *by_key = x.packed, *by_lane = x.packed + max_keys * tile_width;
  float *dv = x.dvs + row * x.dv, *dk = x.dk + row * x.d;
  if (!side.dout_finite) add_lost(side, tile, count, dv, row_step * x.dv);
  pack_keys(by_key, x.ds + lane, width, count, lanes);
  product<Pairs, Transposed, Add>(p.d, lanes, (count + 1) / 2, x.k, x.d, by_key, width, x.dqt + lane, width);
  pack_lanes(by_lane, x.p + lane, width, count, lanes);
  product<Pairs, Plain, Add>(count, round_up(p.dv, W), pairs_of_queries, by_lane, width / 2,
                             side.dout.data + lane / 2 * side.dout.stride, side.dout.stride, dv, row_step * x.dv);
  pack_lanes(by_lane, x.ds + lane, width, count, lanes);
  product<Pairs, Plain, Add>(count, round_up(p.d, W), pairs_of_queries, by_lane, width / 2,
                             side.q.data + lane / 2 * side.q.stride, side.q.stride, dk, row_step * x.d);
}
#endif

// What one tile of keys adds to dQ of the tile of queries, and to dK and dV from `row` on.
static void add_products(const QuerySide& side, const KeySide& tile, int64_t count, int64_t row, int64_t row_step) {
#ifdef PK_PAIRS
  if (side.f.pairs) return add_pairs(side, tile, count, row, row_step);
#endif
  const Problem& p = side.f.problem;
  BackwardScratch& x = side.x;
  const int64_t lane = tile.lane, width = side.width, queries = smaller(tile.lanes, side.queries.count - lane);
  const auto times = tile.safe ? product<Floats, Plain, Add> : careful_product<Plain, Add>;
  const auto transposed = tile.safe ? product<Floats, Transposed, Add> : careful_product<Transposed, Add>;
  const Tile &q = side.q, &dout = side.dout;
  transposed(p.d, tile.lanes, count, tile.k.data, tile.k.stride, x.ds + lane, width, x.dqt + lane, width);
  times(count, round_up(p.dv, W), queries, x.p + lane, width, dout.data + lane * dout.stride, dout.stride,
        x.dvs + row * x.dv, row_step * x.dv);
  times(count, round_up(p.d, W), queries, x.ds + lane, width, q.data + lane * q.stride, q.stride, x.dk + row * x.d,
        row_step * x.d);
}

static void backward(const Backward& f, int64_t batch, int64_t kv_head, int64_t part, KeyRange keys, float* memory) {
  const Problem& p = f.problem;
  const int64_t n_keys = keys.end - keys.begin, b = p.storage(batch);
  BackwardScratch x(p, n_keys, memory);
  fill_zero(x.dk, n_keys * x.d);
  fill_zero(x.dvs, n_keys * x.dv);
  for (int64_t head = kv_head * p.group(); head < (kv_head + 1) * p.group(); ++head) {
    const Place place{batch, head, p.queries[batch].count, p.keys[batch].count};
    const int64_t owner = (part * p.batch + batch) * p.heads + head;
    float* ddistance = f.ddistance ? f.ddistance + owner * p.distance_width : nullptr;
    float* dtable = f.dtable ? f.dtable + owner * p.table_rows * table_row(p) : nullptr;
    for_each_query_tile(p, batch, head, f.tile, [&](const QueryTile& queries) {
      const QuerySide side(f, place, queries, x);
      fill_zero(x.dqt, p.d * side.width);
      fill_zero(x.drt, p.dr * side.width);
      for_each_key_tile(p, place, queries, keys, [&](const KeySegment& segment, int64_t m, int64_t count) {
        const KeySide tile(side, segment, m, count);
        add_products(side, tile, count, segment.first + m * segment.step - keys.begin, segment.step);
        if (ddistance) add_diagonals(side, tile, segment, m, count, ddistance);
        if (dtable || f.dquery.width) add_relative(side, segment, m, count, dtable);
        if (f.ddense_owned) write_dense_gradient(side, tile, segment, m, count);
      });
      write_share(side, f.dq, x.dqt, part);
      if (f.dquery.width) write_share(side, f.dquery, x.drt, part);
    });
  }
  for (int64_t j = 0; j < n_keys; ++j) {
    scale_by(x.dk + j * x.d, round_up(p.d, W), p.scale);
    const int64_t row = p.keys[batch].first + keys.begin + j;
    write_row((char*)row_at(f.dk, p.type, b, kv_head, row), p.type, x.dk + j * x.d, p.d);
    write_row((char*)row_at(f.dv, p.type, b, kv_head, row), p.type, x.dvs + j * x.dv, p.dv);
  }
}

static void sum_parts(const Backward& f, int64_t b, int64_t head, int64_t begin, int64_t end) {
  float sum[256 + W];
  const Shares* const both[] = {&f.dq, &f.dquery};
  for (const Shares* x : both) {
    for (int64_t row = begin; x->width && row < end; ++row) {
      for (int64_t c = 0; c < x->width; ++c) sum[c] = 0;
      for (int64_t part = 0; part < f.parts; ++part) {
        const float* from = x->parts + part * x->size + b * x->part.batch + head * x->part.head + row * x->part.row;
        for (int64_t c = 0; c < x->width; ++c) sum[c] += from[c];
      }
      write_row((char*)row_at(x->to, f.problem.type, b, head, row), f.problem.type, sum, x->width);
    }
  }
}

}  // namespace PK_ISA
}  // namespace pkernels
