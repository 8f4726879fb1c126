// Backward over a Band (Dao et al. 2022, arXiv:2205.14135, algorithm 4), in one pass: a
// worker owns some keys of one key head, so dK and dV are its own; queries in the lanes.
//
//   Pᵀ = exp(Sᵀ - lse)      dPᵀ = V dOᵀ ∘ Zᵀ      delta = rowsum(dO ∘ O)
//   dSᵀ = Pᵀ ∘ (dPᵀ - delta + dlse)
//   dQᵀ += scale Kᵀ dSᵀ     dK += scale dSᵀ Q     dV += (P ∘ Z)ᵀ dO
#pragma once

#include "kernels.h"
#include "step.h"

namespace pkernels {
namespace PK_ISA {

constexpr int64_t diagonals = max_keys + max_width;

struct BackwardScratch {
  int64_t d, dv;  // leading dimensions of rows
  float *q, *dout, *qt, *dot, *dqt, *ot, *p, *ds, *bias, *k, *v, *lse, *dlse, *delta, *diagonal, *dk, *dvs;

  BackwardScratch(const Problem& problem, int64_t keys, float* memory)
      : d(leading(problem.d)), dv(leading(problem.dv)) {
    float* next = memory;
    auto take = [&](int64_t n) {
      float* at = next;
      next += round_up(n, 16);
      return at;
    };
    q = take(max_lanes * d), dout = take(max_lanes * dv);
    qt = take(problem.d * max_width), dqt = take(problem.d * max_width);
    dot = take(larger(problem.dv * max_width, max_lanes * dv));
    p = take(max_keys * max_width), ds = take(max_keys * max_width);
    bias = take((max_keys + 1) * max_width);
    k = take(max_keys * d), v = take(max_keys * dv);
    ot = take(problem.dv * max_width);
    lse = take(max_lanes), dlse = take(max_lanes), delta = take(max_lanes);
    diagonal = take(4 * diagonals);
    dk = take(keys * d), dvs = take(keys * dv);
    size = next - memory;
  }
  int64_t size;
};

static int64_t backward_scratch(const Problem& p, int64_t keys) { return BackwardScratch(p, keys, nullptr).size; }

// One tile of queries and what the tiles of keys need of it.
struct QuerySide {
  const Backward& f;
  Place place;
  QueryTile queries;
  BackwardScratch& x;
  int64_t used, width;  // lanes in use, and the leading dimension of what has lanes
  bool finite;

  QuerySide(const Backward& backward, const Place& where, const QueryTile& tile, BackwardScratch& scratch)
      : f(backward), place(where), queries(tile), x(scratch), used(round_up(tile.count, W)), width(leading(used)) {
    const Problem& p = f.problem;
    const int64_t b = p.storage(place.batch), first = p.queries[place.batch].first + queries.first;
    auto at = [&](const Rows& rows) { return row_at(rows, p.type, b, place.head, first); };
    // dot serves as scratch for the rows of O.
    read_rows(x.dot, x.dv, at(f.out), p.type, f.out.row * queries.step, queries.count, p.dv);
    read_rows(x.dout, x.dv, at(f.dout), p.type, f.dout.row * queries.step, queries.count, p.dv);
    read_rows(x.q, x.d, at(f.q), p.type, f.q.row * queries.step, queries.count, p.d);
    const float* lse = f.lse + b * f.lse_batch + place.head * f.lse_head + first;
    const float* dlse = f.dlse ? f.dlse + b * f.dlse_batch + place.head * f.dlse_head + first * f.dlse_row : nullptr;
    for (int64_t c = 0; c < used; ++c) {
      const bool empty = c >= queries.count || lse[c * queries.step] == -infinity;
      x.lse[c] = empty ? 0 : lse[c * queries.step];
      x.dlse[c] = empty || !dlse ? 0 : dlse[c * queries.step * f.dlse_row];
    }
    transpose(x.qt, width, x.q, x.d, queries.count, p.d);
    scale_by(x.qt, p.d * width, p.scale);
    transpose(x.ot, width, x.dot, x.dv, queries.count, p.dv);
    transpose(x.dot, width, x.dout, x.dv, queries.count, p.dv);
    for (int64_t g = 0; g < used; g += W) store(x.delta + g, delta(g));
    finite = all_finite(x.q, x.d, queries.count, p.d) && all_finite(x.dout, x.dv, queries.count, p.dv);
  }

  // rowsum(dO ∘ O), added up in the order in which `product` adds up dP: a row with a single
  // key, where O is its value, then has dP - delta = 0 to the last bit.
  __attribute__((always_inline)) inline Vec delta(int64_t g) const {
    Vec sum = {};
    for (int64_t c = 0; c < f.problem.dv; ++c) sum += load(x.ot + c * width + g) * load(x.dot + c * width + g);
    return sum;
  }
};

// One tile of keys against a tile of queries: x.p becomes P ∘ Z and x.ds becomes dS.
struct KeySide {
  Tile k, v;
  bool safe;  // plain products do: nothing masked meets anything that is not finite

  KeySide(const QuerySide& side, Scores& scores, const KeySegment& segment, int64_t m, int64_t count) {
    const Backward& f = side.f;
    const Problem& p = f.problem;
    BackwardScratch& x = side.x;
    const int64_t b = p.storage(side.place.batch), kv = side.place.head / p.group(), used = side.used, width = side.width;
    const int64_t first = p.keys[side.place.batch].first + segment.first + m * segment.step;
    k = view_rows(x.k, x.d, row_at(f.k, p.type, b, kv, first), p.type, f.k.row * segment.step, count, p.d);
    v = view_rows(x.v, x.dv, row_at(f.v, p.type, b, kv, first), p.type, f.v.row * segment.step, count, p.dv);
    scores.enter(segment, m, count);
    product<Plain, Assign>(count, used, p.d, k.data, k.stride, x.qt, width, x.p, width);
    product<Plain, Assign>(count, used, p.dv, v.data, v.stride, x.dot, width, x.ds, width);
    const bool masked = scores.masked || p.dense;
    for (int64_t g = 0; g * W < used; ++g) {
      Vec top = {};
      if (!scores.plain()) scores.finish(x.p, segment, m, count, g, top);
      if (p.keep_scale != 1) {
        dropped(x, scores, segment, m, count, g);
      } else {
        plain(x, width, count, g, masked);
      }
    }
    safe = !masked || (side.finite && all_finite(k.data, k.stride, count, p.d));
  }

  static void plain(BackwardScratch& x, int64_t width, int64_t count, int64_t g, bool masked) {
    const Vec lse = load(x.lse + g * W), delta = load(x.delta + g * W),
              dlse = load(x.dlse + g * W);
    for (int64_t j = 0; j < count; ++j) {
      float *p = x.p + j * width + g * W, *ds = x.ds + j * width + g * W;
      const Vec score = load(p);
      const Vec weight = exp(score - lse);
      const Vec gradient = weight * (load(ds) - delta + dlse);
      // Not weight == 0: the lse of a row that is NaN must not spread to keys it does not see.
      const Int hidden = score == -infinity;
      store(p, masked ? select(hidden, Vec{}, weight) : weight);
      store(ds, masked ? select(hidden, Vec{}, gradient) : gradient);
    }
  }

  static void dropped(BackwardScratch& x, const Scores& scores, const KeySegment& segment, int64_t m, int64_t count,
                      int64_t g) {
    const Vec lse = load(x.lse + g * W), delta = load(x.delta + g * W),
              dlse = load(x.dlse + g * W);
    const float keep_scale = scores.problem.keep_scale;
    scores.for_each_kept(segment, m, count, g, [&](int64_t j, const Int& kept) {
      float *p = x.p + j * scores.width + g * W, *ds = x.ds + j * scores.width + g * W;
      const Vec score = load(p);
      const Vec weight = exp(score - lse);
      const Int hidden = score == -infinity;
      const Vec dp = select(kept, load(ds) * keep_scale, Vec{});
      store(p, select(kept & ~hidden, weight * keep_scale, Vec{}));
      store(ds, select(hidden, Vec{}, weight * (dp - delta + dlse)));
    });
  }
};

// Sums of dS along diagonals, in four buffers so that a store is not read back at once.
static void add_diagonals(const QuerySide& side, const KeySegment& segment, int64_t m, int64_t count, float* to) {
  BackwardScratch& x = side.x;
  const Problem& p = side.f.problem;
  const int64_t start = segment.first + m * segment.step - side.queries.first + p.zero;
  const int64_t lines = count - 1 + side.used;
  if (segment.step != side.queries.step) {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t c = 0; c < side.queries.count; ++c) {
        to[start + j * segment.step - c * side.queries.step] += x.ds[j * side.width + c];
      }
    }
    return;
  }
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t u = 0; u < lines; ++u) x.diagonal[i * diagonals + u] = 0;
  }
  for (int64_t j = 0; j < count; ++j) {
    float* line = x.diagonal + (j % 4) * diagonals + count - 1 - j;
    for (int64_t c = 0; c < side.used; c += W) store(line + c, load(line + c) + load(x.ds + j * side.width + c));
  }
  for (int64_t u = 0; u < count - 1 + side.queries.count; ++u) {
    const float* line = x.diagonal + u;
    to[start + (count - 1 - u) * segment.step] +=
        (line[0] + line[diagonals]) + (line[2 * diagonals] + line[3 * diagonals]);
  }
}

static void write_dq(const QuerySide& side, int64_t part) {
  const Backward& f = side.f;
  const Problem& p = f.problem;
  BackwardScratch& x = side.x;
  const int64_t b = p.storage(side.place.batch);
  for (int64_t i = 0; i < p.d * side.width; i += W) store(x.dqt + i, load(x.dqt + i) * p.scale);
  transpose(x.q, x.d, x.dqt, side.width, p.d, side.queries.count);
  for (int64_t c = 0; c < side.queries.count; ++c) {
    const int64_t row = p.queries[side.place.batch].first + side.queries.first + c * side.queries.step;
    if (f.dq_parts) {
      Rows to = f.dq_part;
      to.data = f.dq_parts + part * f.dq_part_size;
      write_row((char*)row_at(to, Type::f32, b, side.place.head, row), Type::f32, x.q + c * x.d, p.d);
    } else {
      write_row((char*)row_at(f.dq, p.type, b, side.place.head, row), p.type, x.q + c * x.d, p.d);
    }
  }
}

// Calls f(segment, m, count) for tiles of the keys that a tile of queries visits in a range.
template <class F>
static void for_each_key_tile(const Problem& p, const Place& place, const QueryTile& queries, KeyRange keys, F f) {
  KeySegment found[2];
  const int n = segments(p.band, p.columns[place.batch], place.n_q, place.n_k, queries, found);
  for (int i = 0; i < n; ++i) {
    const KeySegment segment = clip(found[i], keys.begin, keys.end);
    for (int64_t m = 0; m < segment.count; m += max_keys) f(segment, m, smaller(max_keys, segment.count - m));
  }
}

static void backward(const Backward& f, int64_t batch, int64_t kv_head, int64_t part, KeyRange keys, float* memory) {
  const Problem& p = f.problem;
  const int64_t n_keys = keys.end - keys.begin, b = p.storage(batch);
  BackwardScratch x(p, n_keys, memory);
  for (int64_t i = 0; i < n_keys * x.d; ++i) x.dk[i] = 0;
  for (int64_t i = 0; i < n_keys * x.dv; ++i) x.dvs[i] = 0;
  for (int64_t head = kv_head * p.group(); head < (kv_head + 1) * p.group(); ++head) {
    const Place place{batch, head, p.queries[batch].count, p.keys[batch].count};
    float* ddistance = nullptr;
    if (f.ddistance) {
      ddistance = f.ddistance + ((part * p.batch + batch) * p.heads + head) * p.distance_width;
    }
    for_each_query_tile(p.band, place.n_q, place.n_k, f.tile, [&](const QueryTile& queries) {
      const QuerySide side(f, place, queries, x);
      const int64_t width = side.width;
      Scores scores{p, place, queries, side.used, width, x.bias};
      for (int64_t i = 0; i < p.d * width; ++i) x.dqt[i] = 0;
      for_each_key_tile(p, place, queries, keys, [&](const KeySegment& segment, int64_t m, int64_t count) {
        const KeySide tile(side, scores, segment, m, count);
        const int64_t row = segment.first + m * segment.step - keys.begin;
        const auto times = tile.safe ? product<Plain, Add> : careful_product<Plain, Add>;
        const auto transposed = tile.safe ? product<Transposed, Add> : careful_product<Transposed, Add>;
        transposed(p.d, side.used, count, tile.k.data, tile.k.stride, x.ds, width, x.dqt, width);
        times(count, round_up(p.dv, W), queries.count, x.p, width, x.dout, x.dv, x.dvs + row * x.dv, segment.step * x.dv);
        times(count, round_up(p.d, W), queries.count, x.ds, width, x.q, x.d, x.dk + row * x.d, segment.step * x.d);
        if (ddistance) add_diagonals(side, segment, m, count, ddistance);
      });
      write_dq(side, part);
    });
  }
  for (int64_t i = 0; i < n_keys * x.d; i += W) store(x.dk + i, load(x.dk + i) * p.scale);
  for (int64_t j = 0; j < n_keys; ++j) {
    const int64_t row = p.keys[batch].first + keys.begin + j;
    write_row((char*)row_at(f.dk, p.type, b, kv_head, row), p.type, x.dk + j * x.d, p.d);
    write_row((char*)row_at(f.dv, p.type, b, kv_head, row), p.type, x.dvs + j * x.dv, p.dv);
  }
}

// The tiles are computed once more: a bias may be shared by batch rows and heads that other
// workers own, and this way every element has one owner and one order of summation.
static void dense_gradient(const Backward& f, int64_t bias_batch, int64_t bias_head, KeyRange keys, float* memory) {
  const Problem& p = f.problem;
  BackwardScratch x(p, 0, memory);
  const int64_t* size = f.ddense_size;
  float* base = f.ddense + (bias_batch * size[1] + bias_head) * size[2] * size[3];
  const int64_t row_step = size[2] == 1 ? 0 : size[3], column_step = size[3] == 1 ? 0 : 1;
  const int64_t batch_end = size[0] == 1 ? p.batch : bias_batch + 1, head_end = size[1] == 1 ? p.heads : bias_head + 1;
  for (int64_t batch = bias_batch; batch < batch_end; ++batch) {
    for (int64_t head = bias_head; head < head_end; ++head) {
      const Place place{batch, head, p.queries[batch].count, p.keys[batch].count};
      for_each_query_tile(p.band, place.n_q, place.n_k, f.tile, [&](const QueryTile& queries) {
        const QuerySide side(f, place, queries, x);
        Scores scores{p, place, queries, side.used, side.width, x.bias};
        for_each_key_tile(p, place, queries, keys, [&](const KeySegment& segment, int64_t m, int64_t count) {
          const KeySide tile(side, scores, segment, m, count);
          for (int64_t c = 0; c < queries.count; ++c) {
            float* to = base + (queries.first + c * queries.step) * row_step;
            if (column_step == 0) {
              double sum = 0;
              for (int64_t j = 0; j < count; ++j) sum += x.ds[j * side.width + c];
              to[0] += static_cast<float>(sum);
              continue;
            }
            for (int64_t j = 0; j < count; ++j) {
              to[segment.first + (m + j) * segment.step] += x.ds[j * side.width + c];
            }
          }
        });
      });
    }
  }
}

static void sum_parts(const Backward& f, int64_t b, int64_t head, int64_t begin, int64_t end) {
  const Problem& p = f.problem;
  float sum[256 + W];
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t c = 0; c < p.d; ++c) sum[c] = 0;
    for (int64_t part = 0; part < f.parts; ++part) {
      const float* from = f.dq_parts + part * f.dq_part_size + b * f.dq_part.batch + head * f.dq_part.head + row * f.dq_part.row;
      for (int64_t c = 0; c < p.d; ++c) sum[c] += from[c];
    }
    write_row((char*)row_at(f.dq, p.type, b, head, row), p.type, sum, p.d);
  }
}

}  // namespace PK_ISA
}  // namespace pkernels
