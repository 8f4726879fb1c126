// Forward over a Band (Dao et al. 2022, arXiv:2205.14135, algorithm 1; Dao 2023,
// arXiv:2307.08691, section 3.1), one tile of queries at a time, queries in the lanes:
//
//   Sᵀ = K Qᵀ          s = scale * S + bias, -inf where masked
//   m' = max(m, s)     P = exp(s - m')      l' = l exp(m - m') + sum P
//   Oᵀ' = Oᵀ exp(m - m') + Vᵀ (P ∘ Z)       O = Oᵀ' / l,  lse = m + log l
//
// Maximum, sum and rescaling are lane-wise, and K and V are read in their natural layout.
#pragma once

#include "kernels.h"
#include "step.h"

namespace pkernels {
namespace PK_ISA {

struct ForwardScratch {
  int64_t d, dv;  // leading dimensions of rows
  float *rows, *qt, *ot, *s, *bias, *k, *v, *top, *sum;

  ForwardScratch(const Problem& p, float* memory) : d(leading(p.d)), dv(leading(p.dv)) {
    float* next = memory;
    auto take = [&](int64_t n) {
      float* at = next;
      next += round_up(n, 16);
      return at;
    };
    rows = take(max_lanes * larger(d, dv));
    qt = take(p.d * max_width), ot = take(p.dv * max_width);
    s = take(max_keys * max_width), bias = take((max_keys + 1) * max_width);
    k = take(max_keys * d), v = take(max_keys * dv);
    top = take(max_lanes), sum = take(max_lanes);
    size = next - memory;
  }
  int64_t size;
};

static int64_t forward_scratch(const Problem& p) { return ForwardScratch(p, nullptr).size; }

// P in place of S, and the softmax's running state, for the lanes of vector g.
PK_INLINE void soften(const Scores& scores, const KeySegment& segment, int64_t m, int64_t count, int64_t g,
                      ForwardScratch& x) {
  const int64_t width = scores.width;
  float* s = x.s + g * W;
  const Vec before = load(x.top + g * W);
  Vec top = before;
  if (scores.plain()) {
    for (int64_t j = 0; j < count; ++j) top = maximum(load(s + j * width), top);
  } else {
    scores.finish(x.s, segment, m, count, g, top);
  }
  const Vec pivot = select(top == -infinity, Vec{}, top);  // rows without a key so far
  Vec sum = {};
  for (int64_t j = 0; j < count; ++j) {
    const Vec p = exp(load(s + j * width) - pivot);
    store(s + j * width, p);
    sum += p;
  }
  store(x.top + g * W, top);
  const Vec alpha = exp(before - pivot);
  store(x.sum + g * W, load(x.sum + g * W) * alpha + sum);
  if (any(alpha != 1.0f)) {
    for (int64_t c = 0; c < scores.problem.dv; ++c) {
      float* o = x.ot + c * width + g * W;
      store(o, load(o) * alpha);
    }
  }
  if (scores.problem.threshold > 0) {
    scores.for_each_kept(segment, m, count, g, [&](int64_t j, const Int& kept) {
      store(s + j * width, (Vec)((Int)load(s + j * width) & kept));
    });
  }
}

static void finish_forward(const Forward& f, const Scores& scores, ForwardScratch& x) {
  const Place& place = scores.place;
  const QueryTile& queries = scores.queries;
  const int64_t used = scores.used, width = scores.width;
  const Problem& p = f.problem;
  const int64_t b = p.storage(place.batch);
  for (int64_t g = 0; g < used; g += W) {
    const Vec sum = load(x.sum + g);
    const Vec inverse = select(sum == 0.0f, Vec{}, p.keep_scale / sum);
    for (int64_t c = 0; c < p.dv; ++c) store(x.ot + c * width + g, load(x.ot + c * width + g) * inverse);
  }
  const int64_t first = p.queries[place.batch].first + queries.first;
  float* lse = f.lse + b * f.lse_batch + place.head * f.lse_head + first;
  transpose(x.rows, x.dv, x.ot, width, p.dv, queries.count);
  for (int64_t c = 0; c < queries.count; ++c) {
    const int64_t row = first + c * queries.step;
    write_row((char*)row_at(f.out, p.type, b, place.head, row), p.type, x.rows + c * x.dv, p.dv);
    const float sum = x.sum[c];
    lse[c * queries.step] = sum == 0 ? -infinity : x.top[c] + __builtin_logf(sum);
  }
}

static void forward(const Forward& f, int64_t batch, int64_t head, const QueryTile& queries, float* memory) {
  const Problem& p = f.problem;
  ForwardScratch x(p, memory);
  const Place place{batch, head, p.queries[batch].count, p.keys[batch].count};
  const int64_t b = p.storage(batch), kv = head / p.group();
  const int64_t used = round_up(queries.count, W), width = leading(used);
  Scores scores{p, place, queries, used, width, x.bias};

  const char* q = row_at(f.q, p.type, b, head, p.queries[batch].first + queries.first);
  read_rows(x.rows, x.d, q, p.type, f.q.row * queries.step, queries.count, p.d);
  transpose(x.qt, width, x.rows, x.d, queries.count, p.d);
  scale_by(x.qt, p.d * width, p.scale);
  for (int64_t c = 0; c < used; ++c) x.top[c] = -infinity, x.sum[c] = 0;
  for (int64_t i = 0; i < p.dv * width; ++i) x.ot[i] = 0;

  KeySegment found[2];
  const int n = segments(p.band, p.columns[batch], place.n_q, place.n_k, queries, found);
  for (int i = 0; i < n; ++i) {
    const KeySegment& segment = found[i];
    for (int64_t m = 0; m < segment.count; m += max_keys) {
      const int64_t count = smaller(max_keys, segment.count - m);
      const int64_t first = p.keys[batch].first + segment.first + m * segment.step;
      const Tile k = view_rows(x.k, x.d, row_at(f.k, p.type, b, kv, first), p.type, f.k.row * segment.step, count, p.d);
      const Tile v =
          view_rows(x.v, x.dv, row_at(f.v, p.type, b, kv, first), p.type, f.v.row * segment.step, count, p.dv);
      scores.enter(segment, m, count);
      product<Plain, Assign>(count, used, p.d, k.data, k.stride, x.qt, width, x.s, width);
      for (int64_t g = 0; g * W < used; ++g) soften(scores, segment, m, count, g, x);
      const bool safe = !(scores.masked || p.dense) || all_finite(v.data, v.stride, count, p.dv);
      (safe ? product<Transposed, Add> : careful_product<Transposed, Add>)(p.dv, used, count, v.data, v.stride, x.s,
                                                                         width, x.ot, width);
    }
  }
  finish_forward(f, scores, x);
}

}  // namespace PK_ISA
}  // namespace pkernels
