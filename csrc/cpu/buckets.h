// Forward and backward over Buckets (Kitaev et al. 2020, arXiv:2001.04451, section 2). A worker
// takes chunks of one head. A row comes back in every round: its running softmax goes on where
// it stopped, and its gradients add up, in memory that has a row for each row of the sequence.
#pragma once

#include "backward.h"
#include "forward.h"

namespace pkernels {
namespace PK_ISA {

// The running softmax of all rows of a sequence.
struct Softmaxes {
  int64_t ld;
  float *o, *top, *sum;  // [row][ld], [row], [row]

  Softmaxes(const Problem& p, int64_t rows, float* memory)
      : ld(leading(p.dv)), o(memory), top(memory + rows * ld), sum(top + rows) {}
  static int64_t size(const Problem& p, int64_t rows) { return round_up(rows * (leading(p.dv) + 2), 16); }
};

// A panel that goes on with the softmaxes of its rows.
struct Continued {
  const Softmaxes& all;

  void start(const Forward& f, const ForwardScratch& x, const Running& run) const {
    const int64_t count = run.panel.queries.count, width = run.panel.width, dv = f.problem.dv;
    const int32_t* list = run.panel.queries.list;
    const Lines o = lines_of(Rows{all.o, 0, 0, all.ld}, Type::f32, 0, 0, 0, 0, 0, list, count, dv, x.listed[0], x.dv);
    read_transposed(run.ot, width, width, o.data, Type::f32, o.step, count, dv);
    for (int64_t c = 0; c < width; ++c) {
      run.top[c] = c < count ? all.top[list[c]] : -infinity;
      run.sum[c] = c < count ? all.sum[list[c]] : 0;
    }
  }

  void finish(const Forward& f, const ForwardScratch& x, const Running& run) const {
    const int64_t count = run.panel.queries.count, width = run.panel.width, dv = f.problem.dv;
    const int32_t* list = run.panel.queries.list;
    float ones[max_width];
    for (int64_t c = 0; c < width; c += W) store(ones + c, splat(1.0f));
    write_transposed((char*)x.listed[0], Type::f32, x.dv, run.ot, width, ones, count, dv);
    for (int64_t c = 0; c < count; ++c) {
      __builtin_memcpy(all.o + list[c] * all.ld, x.listed[0] + c * x.dv, dv * sizeof(float));
      all.top[list[c]] = run.top[c], all.sum[list[c]] = run.sum[c];
    }
  }
};

static int64_t softmaxes_size(const Problem& p, int64_t rows) { return Softmaxes::size(p, rows); }

static void forward_chunks(const Forward& f, int64_t batch, int64_t head, KeyRange chunks, float* state,
                           float* memory) {
  const Problem& p = f.problem;
  const int64_t rows = p.queries[batch].count;
  const Softmaxes all(p, rows, state);
  fill_zero(state, Softmaxes::size(p, rows));
  for (int64_t r = 0; r < rows; ++r) all.top[r] = -infinity;
  for_each_chunk_tile(p.buckets, batch, head, chunks.begin, chunks.end, f.tile, [&](const QueryTile& tile) {
#ifdef PK_PAIRS
    if (f.pairs) return forward_with<PairTile>(f, Item{batch, head, 1, tile}, nullptr, memory, Continued{all});
#endif
    forward_with<FloatTile>(f, Item{batch, head, 1, tile}, nullptr, memory, Continued{all});
  });
}

// Merges the softmaxes of `parts` workers, `stride` floats apart, and writes the results.
static void finish_chunks(const Forward& f, int64_t batch, int64_t head, float* states, int64_t parts, int64_t stride) {
  const Problem& p = f.problem;
  const int64_t rows = p.queries[batch].count, width = round_up(p.dv, W), start = p.queries[batch].first;
  const Softmaxes first(p, rows, states);
  for (int64_t r = 0; r < rows; ++r) {
    float top = -infinity, sum = 0;
    for (int64_t part = 0; part < parts; ++part) {
      const float other = Softmaxes(p, rows, states + part * stride).top[r];
      top = other > top ? other : top;
    }
    float* o = first.o + r * first.ld;
    for (int64_t part = 0; part < parts; ++part) {
      const Softmaxes from(p, rows, states + part * stride);
      const float weight = from.top[r] == -infinity ? 0 : exp(splat(from.top[r] - top))[0];
      sum += weight * from.sum[r];
      for (int64_t c = 0; c < width; c += W) {
        store(o + c, (part ? load(o + c) : Vec{}) + weight * load(from.o + r * from.ld + c));
      }
    }
    scale_by(o, width, sum == 0 ? 0 : p.keep_scale / sum);
    write_row((char*)row_at(f.out, p.type, batch, head, start + r), p.type, o, p.dv);
    f.lse[batch * f.lse_batch + head * f.lse_head + start + r] = sum == 0 ? -infinity : top + log(splat(sum))[0];
  }
}

// The gradients of all rows of a sequence: dQ of the heads that share a key head, dK and dV.
struct Sums {
  int64_t d, dv;
  float *dq, *dk, *dvs;  // [head of the group][row][d], [row][d], [row][dv]

  Sums(const Problem& p, int64_t rows, float* memory)
      : d(leading(p.d)), dv(leading(p.dv)), dq(memory), dk(dq + p.group() * rows * d), dvs(dk + rows * d) {}
  static int64_t size(const Problem& p, int64_t rows) {
    return rows * ((p.group() + 1) * leading(p.d) + leading(p.dv));
  }
};

static int64_t sums_size(const Problem& p, int64_t rows) { return Sums::size(p, rows); }

// to[list[r]] += from[r].
static void add_rows(float* to, const int32_t* list, const float* from, int64_t ld, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < ld; c += W)
      store(to + list[r] * ld + c, load(to + list[r] * ld + c) + load(from + r * ld + c));
  }
}

static void backward_chunks(const Backward& f, int64_t batch, int64_t kv_head, KeyRange chunks, float* memory_of_sums,
                            float* memory) {
  const Problem& p = f.problem;
  const int64_t rows = p.queries[batch].count;
  BackwardScratch x(p, max_keys, memory);
  const Sums sums(p, rows, memory_of_sums);
  fill_zero(memory_of_sums, Sums::size(p, rows));
  float ones[W];
  store(ones, splat(1.0f));
  for (int64_t h = 0; h < p.group(); ++h) {
    const Place place{batch, kv_head * p.group() + h, rows, rows};
    float* dq = sums.dq + h * rows * sums.d;
    for_each_chunk_tile(p.buckets, batch, place.head, chunks.begin, chunks.end, f.tile, [&](const QueryTile& queries) {
      const QuerySide side(f, place, queries, x);
      fill_zero(x.dqt, p.d * side.width);
      for_each_key_tile(p, place, queries, {0, rows}, [&](const KeySegment& segment, int64_t m, int64_t count) {
        const KeySide tile(side, segment, m, count);
        fill_zero(x.dk, count * x.d);
        fill_zero(x.dvs, count * x.dv);
        add_products(side, tile, count, 0, 1);
        add_rows(sums.dk, segment.list + m, x.dk, x.d, count);
        add_rows(sums.dvs, segment.list + m, x.dvs, x.dv, count);
      });
      for (int64_t c = 0; c < queries.count; c += W) {
        const int64_t n = smaller(W, queries.count - c);
        fill_zero(x.listed[0], n * x.d);
        write_transposed((char*)x.listed[0], Type::f32, x.d, x.dqt + c, side.width, ones, n, p.d);
        add_rows(dq, queries.list + c, x.listed[0], x.d, n);
      }
    });
  }
}

// Adds up the sums of `parts` workers, `stride` floats apart, and writes them.
static void finish_sums(const Backward& f, int64_t batch, int64_t kv_head, float* memory, int64_t parts,
                        int64_t stride) {
  const Problem& p = f.problem;
  const int64_t rows = p.queries[batch].count, size = Sums::size(p, rows);
  for (int64_t part = 1; part < parts; ++part) {
    for (int64_t i = 0; i < size; i += W) store(memory + i, load(memory + i) + load(memory + part * stride + i));
  }
  const Sums sums(p, rows, memory);
  const auto write = [&](const Rows& to, int64_t head, float* from, int64_t ld, int64_t width, float scale) {
    for (int64_t r = 0; r < rows; ++r) {
      if (scale != 1) scale_by(from + r * ld, round_up(width, W), scale);
      write_row((char*)row_at(to, p.type, batch, head, p.queries[batch].first + r), p.type, from + r * ld, width);
    }
  };
  for (int64_t h = 0; h < p.group(); ++h) {
    write(f.dq.to, kv_head * p.group() + h, sums.dq + h * rows * sums.d, sums.d, p.d, p.scale);
  }
  write(f.dk, kv_head, sums.dk, sums.d, p.d, p.scale);
  write(f.dv, kv_head, sums.dvs, sums.dv, p.dv, 1);
}

}  // namespace PK_ISA
}  // namespace pkernels
