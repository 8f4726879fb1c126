// Few queries against many keys, as in decoding: one query at a time, keys in the lanes of the
// scores and features in the lanes of the output. Each key is read once, so this runs at the
// speed of memory; keys may be split among workers, whose results are merged as those of two
// tiles are (Dao et al. 2023, Flash-Decoding).
#pragma once

#include "kernels.h"
#include "step.h"

namespace pkernels {
namespace PK_ISA {

// The running softmax of one query: Oᵀ without its denominator, the maximum and the sum.
struct NarrowRow {
  float *o, *top, *sum;
};

struct NarrowScratch {
  int64_t d, dv, row;  // leading dimensions of rows; floats of one query's state
  float *q, *s, *k, *v, *state;
  int64_t size;

  NarrowScratch(const Problem& p, int64_t rows, float* memory)
      : d(leading(p.d)), dv(leading(p.dv)), row(narrow_row(p)) {
    float* next = memory;
    auto take = [&](int64_t n) {
      float* at = next;
      next += round_up(n, 16);
      return at;
    };
    q = take(d), s = take(max_keys + W);
    k = take(max_keys * d), v = take(max_keys * dv);
    state = take(rows * row);
    size = next - memory;
  }
};

static int64_t narrow_scratch(const Problem& p, int64_t rows) { return NarrowScratch(p, rows, nullptr).size; }

static NarrowRow narrow_at(const Problem& p, float* state, int64_t row) {
  float* at = state + row * narrow_row(p);
  return {at, at + round_up(p.dv, 16), at + round_up(p.dv, 16) + 1};
}

// Element i = sum of x[i].
PK_INLINE Vec sums_of(Vec (&x)[W]) {
  const std::make_integer_sequence<int, W> every;
#pragma GCC unroll 4
  for (int n = W / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) x[i] = interleave_low(x[i], x[i + n], every) + interleave_high(x[i], x[i + n], every);
  }
  return x[0];
}

// How rows of a type are read in whole vectors.
struct ReadF32 {
  PK_INLINE Vec at(const char* p) { return load((const float*)p); }
  static constexpr int64_t size = 4;
};
struct ReadBF16 {
  PK_INLINE Vec at(const char* p) { return load_bf16((const uint16_t*)p); }
  static constexpr int64_t size = 2;
};
struct ReadF16 {
  PK_INLINE Vec at(const char* p) { return load_f16((const uint16_t*)p); }
  static constexpr int64_t size = 2;
};

// Rows of keys or values, `step` bytes apart, whose width is a multiple of W.
struct WholeRows {
  const char* data;
  int64_t step;
  Type type;
};

// Rows in place, or, where a vector would reach past their end, copied.
static WholeRows narrow_rows(float* scratch, int64_t ld, const char* from, Type type, int64_t step, int64_t rows,
                             int64_t width) {
  if (width % W == 0) return {from, step * bytes_of(type), type};
  read_rows(scratch, ld, from, type, step, rows, width);
  return {(const char*)scratch, ld * 4, Type::f32};
}

// s[j] = q · k_j for `count` keys, W at a time; `q` is filled with zeros up to whole vectors.
template <class Read>
static void dot_products(const float* q, const WholeRows& k, int64_t count, int64_t width, float* s) {
  int64_t j = 0;
  for (; j + W <= count; j += W) {
    Vec sum[W] = {};
    for (int64_t c = 0; c < width; c += W) {
      const Vec some = load(q + c);
      const char* row = k.data + j * k.step + c * Read::size;
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i, row += k.step) sum[i] += some * Read::at(row);
    }
    store(s + j, sums_of(sum));
  }
  for (; j < count; ++j) {
    Vec sum[W] = {};
    for (int64_t c = 0; c < width; c += W) sum[0] += load(q + c) * Read::at(k.data + j * k.step + c * Read::size);
    s[j] = sums_of(sum)[0];
  }
}

// N vectors of o += sum of s[j] v_j.
template <class Read, int N>
static void weighted_columns(const float* s, const char* v, int64_t step, int64_t count, float* o) {
  Vec even[N] = {}, odd[N] = {};  // two chains for each vector, so that additions need not wait
  int64_t j = 0;
  for (; j + 2 <= count; j += 2, v += 2 * step) {
    const Vec one = splat(s[j]), other = splat(s[j + 1]);
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      even[i] += one * Read::at(v + i * W * Read::size);
      odd[i] += other * Read::at(v + step + i * W * Read::size);
    }
  }
  for (int i = 0; i < N; ++i) {
    if (j < count) even[i] += splat(s[j]) * Read::at(v + i * W * Read::size);
    store(o + i * W, load(o + i * W) + (even[i] + odd[i]));
  }
}

template <class Read>
static void weighted_sum(const float* s, const WholeRows& v, int64_t count, int64_t width, float* o) {
  int64_t c = 0;
  for (; c + 4 * W <= width; c += 4 * W) weighted_columns<Read, 4>(s, v.data + c * Read::size, v.step, count, o + c);
  for (; c < width; c += W) weighted_columns<Read, 1>(s, v.data + c * Read::size, v.step, count, o + c);
}

// One tile of keys; x.s holds their scores.
static void narrow_step(const NarrowScratch& x, const Problem& p, const NarrowRow& run, const WholeRows& v,
                        int64_t count) {
  for (int64_t j = count; j < round_up(count, W); ++j) x.s[j] = -infinity;
  Vec most = splat(*run.top);
  for (int64_t j = 0; j < count; j += W) most = maximum(load(x.s + j), most);
  float top = most[0];
  for (int i = 1; i < W; ++i) top = most[i] > top ? most[i] : top;
  const Vec pivot = splat(top == -infinity ? 0 : top);
  Vec sum = {};
  for (int64_t j = 0; j < count; j += W) {
    const Vec weight = exp(load(x.s + j) - pivot);
    store(x.s + j, weight);
    sum += weight;
  }
  float total = 0;
  for (int i = 0; i < W; ++i) total += sum[i];
  const float alpha = exp(splat(*run.top) - pivot)[0];
  *run.top = top;
  *run.sum = *run.sum * alpha + total;
  const int64_t width = round_up(p.dv, W);
  if (alpha != 1) scale_by(run.o, width, alpha);
  const auto add = v.type == Type::f32    ? weighted_sum<ReadF32>
                   : v.type == Type::bf16 ? weighted_sum<ReadBF16>
                                          : weighted_sum<ReadF16>;
  add(x.s, v, count, width, run.o);
}

// Adds the bias of neighbouring steps from the first key of a tile on.
static void narrow_bias(const Problem& p, int64_t head, int64_t query, const KeySegment& keys, int64_t m, int64_t count,
                        float* s) {
  if (!p.distance) return;
  const int64_t first = keys.first + m * keys.step - query + p.zero;
  const float* values = p.distance + head * p.distance_head;
  for (int64_t j = 0; j < count; ++j) s[j] += values[first + j * keys.step];
}

// Merges the states of `parts` workers, `stride` floats apart, into the first and writes the results.
static void narrow_finish(const Forward& f, int64_t batch, int64_t kv_head, float* states, int64_t parts,
                          int64_t stride) {
  const Problem& p = f.problem;
  const int64_t n_q = p.queries[batch].count, b = p.storage(batch), width = round_up(p.dv, 16);
  for (int64_t row = 0; row < n_q * p.group(); ++row) {
    const NarrowRow run = narrow_at(p, states, row);
    float top = -infinity, sum = 0;
    for (int64_t part = 0; part < parts; ++part) {
      const float other = *narrow_at(p, states + part * stride, row).top;
      top = other > top ? other : top;
    }
    for (int64_t part = 0; part < parts; ++part) {
      const NarrowRow from = narrow_at(p, states + part * stride, row);
      const float weight = top == -infinity ? 0 : exp(splat(*from.top - top))[0];
      sum += weight * *from.sum;
      for (int64_t c = 0; c < width; c += W) {
        store(run.o + c, (part ? load(run.o + c) : Vec{}) + weight * load(from.o + c));
      }
    }
    scale_by(run.o, width, sum == 0 ? 0 : 1 / sum);
    const int64_t head = kv_head * p.group() + row / n_q, query = p.queries[batch].first + row % n_q;
    write_row((char*)row_at(f.out, p.type, b, head, query), p.type, run.o, p.dv);
    f.lse[b * f.lse_batch + head * f.lse_head + query] = sum == 0 ? -infinity : top + log(splat(sum))[0];
  }
}

// The queries of the heads that share one key head, over some keys; `state` is left for a merge,
// or, if it is null, the results are written.
static void narrow(const Forward& f, int64_t batch, int64_t kv_head, KeyRange range, float* state, float* memory) {
  const Problem& p = f.problem;
  const int64_t n_q = p.queries[batch].count, n_k = p.keys[batch].count, b = p.storage(batch);
  const NarrowScratch x(p, n_q * p.group(), memory);
  float* const states = state ? state : x.state;
  for (int64_t row = 0; row < n_q * p.group(); ++row) {
    const NarrowRow run = narrow_at(p, states, row);
    fill_zero(run.o, round_up(p.dv, 16));
    *run.top = -infinity, *run.sum = 0;
  }
  for (int64_t i = 0; i < n_q; ++i) {
    const int64_t at = i + n_k - n_q;
    KeySegment found[2];
    const QueryTile one{i, p.band.dilation, 1, at >= 0 && at < p.band.rows};
    const int n = segments(p.band, p.columns[batch], n_q, n_k, one, found);
    for (int part = 0; part < n; ++part) {
      const KeySegment keys = clip(found[part], range.begin, range.end);
      for (int64_t m = 0; m < keys.count; m += max_keys) {
        const int64_t count = smaller(max_keys, keys.count - m),
                      first = p.keys[batch].first + keys.first + m * keys.step;
        const char *k_at = row_at(f.k, p.type, b, kv_head, first), *v_at = row_at(f.v, p.type, b, kv_head, first);
        const WholeRows k = narrow_rows(x.k, x.d, k_at, p.type, f.k.row * keys.step, count, p.d);
        const WholeRows v = narrow_rows(x.v, x.dv, v_at, p.type, f.v.row * keys.step, count, p.dv);
        for (int64_t g = 0; g < p.group(); ++g) {
          const int64_t head = kv_head * p.group() + g;
          read_rows(x.q, x.d, row_at(f.q, p.type, b, head, p.queries[batch].first + i), p.type, 0, 1, p.d);
          scale_by(x.q, round_up(p.d, W), p.scale);
          const auto dot = k.type == Type::f32    ? dot_products<ReadF32>
                           : k.type == Type::bf16 ? dot_products<ReadBF16>
                                                  : dot_products<ReadF16>;
          dot(x.q, k, count, round_up(p.d, W), x.s);
          narrow_bias(p, head, i, keys, m, count, x.s);
          narrow_step(x, p, narrow_at(p, states, g * n_q + i), v, count);
        }
      }
    }
  }
  if (!state) narrow_finish(f, batch, kv_head, states, 1, 0);
}

}  // namespace PK_ISA
}  // namespace pkernels
