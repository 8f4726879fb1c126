// The steps of an LSTM with a projected state, cells in the lanes. A group of cells goes from its
// gates to its share of the projection (backward: of the state's gradient) while it is in the
// cache, so each step reads every weight once.
#pragma once

#include "exponential.h"
#include "kernels.h"
#include "product.h"

namespace pkernels {
namespace PK_ISA {

constexpr int64_t lstm_tile = 4 * lstm_lanes;  // the gates of some cells

// Calls f(row, batch row) for the rows that take part in a step; they are the first ones.
struct Rank {
  const Lstm& f;
  int64_t begin, count;  // of the order

  Rank(const Lstm& f, int64_t begin, int64_t end, int64_t step) : f(f), begin(begin), count(0) {
    while (begin + count < end && f.lengths[begin + count] > step) ++count;
  }
  int64_t batch(int64_t r) const { return f.order[begin + r]; }
  bool is_first(int64_t r, int64_t step) const { return step == (f.reverse ? f.lengths[begin + r] - 1 : 0); }
};

PK_INLINE Vec clipped(Vec x, float bound) {
  const Vec low = x < -bound ? splat(-bound) : x;
  return low > bound ? splat(bound) : low;
}

// A gradient, where the result was not clipped.
PK_INLINE Vec unclipped(Vec gradient, Vec result, float bound) {
  return select(magnitude(result) < bound, gradient, Vec{});
}

PK_INLINE void clear(float* x, int64_t count) { __builtin_memset(x, 0, count * sizeof(float)); }
PK_INLINE void copy(float* to, const float* from, int64_t count) { __builtin_memcpy(to, from, count * sizeof(float)); }

// Gates before their functions -> the memory, and what is to be projected, of lstm_lanes cells.
static void lstm_cells(const Lstm& f, const float* z, float* c, float* m, float* gates, float* memory) {
  for (int64_t v = 0; v < lstm_lanes; v += W) {
    const Vec i = sigmoid(load(z + v)), forget = sigmoid(load(z + lstm_lanes + v));
    const Vec g = tanh(load(z + 2 * lstm_lanes + v)), o = sigmoid(load(z + 3 * lstm_lanes + v));
    const Vec cell = clipped(forget * load(c + v) + i * g, f.cell_clip);
    store(c + v, cell);
    store(m + v, o * tanh(cell));
    if (!gates) continue;
    store(gates + v, i), store(gates + f.cells + v, forget);
    store(gates + 2 * f.cells + v, g), store(gates + 3 * f.cells + v, o);
    store(memory + v, cell);
  }
}

// The cells [first, first + lstm_lanes) of all rows of a step; m: rows of lstm_group.
static void lstm_lanes_forward(const Lstm& f, const Rank& rank, int64_t step, int64_t first, const float* h, float* m,
                               float* tile) {
  for (int64_t r = 0; r < rank.count; ++r) {
    const float* x = f.x + (rank.batch(r) * f.steps + step) * 4 * f.cells + first;
    for (int64_t gate = 0; gate < 4; ++gate) {
      copy(tile + r * lstm_tile + gate * lstm_lanes, x + gate * f.cells, lstm_lanes);
    }
  }
  product<Floats, Plain, Add>(rank.count, lstm_tile, f.width, h, f.width, f.recurrent + first * 4 * f.width, lstm_tile,
                              tile, lstm_tile);
  for (int64_t r = 0; r < rank.count; ++r) {
    const int64_t at = rank.batch(r) * f.steps + step;
    lstm_cells(f, tile + r * lstm_tile, f.c + rank.batch(r) * f.cells + first, m + r * lstm_group,
               f.gates ? f.gates + at * 4 * f.cells + first : nullptr,
               f.gates ? f.memory + at * f.cells + first : nullptr);
  }
}

static void lstm_forward(const Lstm& f, int64_t begin, int64_t end, float* scratch) {
  const int64_t rows = end - begin;
  float *h = scratch, *next = h + rows * f.width, *m = next + 2 * rows * f.width, *tile = m + rows * lstm_group;
  for (int64_t r = 0; r < rows; ++r) copy(h + r * f.width, f.h + f.order[begin + r] * f.width, f.width);
  for (int64_t s = 0; s < f.steps; ++s) {
    const int64_t step = f.reverse ? f.steps - 1 - s : s;
    const Rank rank(f, begin, end, step);
    if (rank.count == 0) continue;
    clear(next, rank.count * f.width);
    for (int64_t group = 0; group < f.cells; group += lstm_group) {
      const int64_t n = f.cells - group < lstm_group ? f.cells - group : lstm_group;
      for (int64_t j = 0; j < n; j += lstm_lanes) lstm_lanes_forward(f, rank, step, group + j, h, m + j, tile);
      product<Floats, Plain, Add>(rank.count, f.width, n, m, lstm_group, f.projection + group * f.width, f.width, next,
                                  f.width);
    }
    for (int64_t r = 0; r < rank.count; ++r) {
      float* out = f.out + (rank.batch(r) * f.steps + step) * f.width;
      for (int64_t v = 0; v < f.width; v += W) store(out + v, clipped(load(next + r * f.width + v), f.projection_clip));
      copy(h + r * f.width, out, f.width);
    }
  }
  for (int64_t r = 0; r < rows; ++r) copy(f.h + f.order[begin + r] * f.width, h + r * f.width, f.width);
}

// Gradients of one row's gates, and of its memory, of cells [first, first + n). dm: of what was
// projected; dz: rows of lstm_group, one for each gate.
static void lstm_cells_backward(const Lstm& f, const Rank& rank, int64_t r, int64_t step, int64_t first, int64_t n,
                                const float* dm, float* dz) {
  const int64_t b = rank.batch(r), at = b * f.steps + step;
  const float *gates = f.gates + at * 4 * f.cells + first, *memory = f.memory + at * f.cells + first;
  const float* before =
      rank.is_first(r, step) ? f.first + b * f.cells + first : memory + (f.reverse ? f.cells : -f.cells);
  float *dc = f.c + b * f.cells + first, *dx = f.dx + at * 4 * f.cells + first, *m = f.hidden + at * f.cells + first;
  auto put = [&](int64_t gate, int64_t v, Vec x) __attribute__((always_inline)) {
    store(dz + gate * lstm_group + v, x);
    store(dx + gate * f.cells + v, x);
  };
  for (int64_t v = 0; v < n; v += W) {
    const Vec i = load(gates + v), forget = load(gates + f.cells + v);
    const Vec g = load(gates + 2 * f.cells + v), o = load(gates + 3 * f.cells + v);
    const Vec cell = load(memory + v), squashed = tanh(cell), dmv = load(dm + v);
    const Vec dcell = unclipped(load(dc + v) + dmv * o * (1.0f - squashed * squashed), cell, f.cell_clip);
    put(0, v, dcell * g * i * (1.0f - i));
    put(1, v, dcell * load(before + v) * forget * (1.0f - forget));
    put(2, v, dcell * i * (1.0f - g * g));
    put(3, v, dmv * squashed * o * (1.0f - o));
    store(dc + v, dcell * forget);
    store(m + v, o * squashed);
  }
}

static void lstm_backward(const Lstm& f, int64_t begin, int64_t end, float* scratch) {
  const int64_t rows = end - begin;
  float *dh = scratch, *sum = dh + rows * f.width, *dp = sum + rows * f.width, *dm = dp + rows * f.width;
  float* dz = dm + rows * lstm_group;
  for (int64_t r = 0; r < rows; ++r) copy(dh + r * f.width, f.h + f.order[begin + r] * f.width, f.width);
  for (int64_t s = 0; s < f.steps; ++s) {
    const int64_t step = f.reverse ? s : f.steps - 1 - s;
    const Rank rank(f, begin, end, step);
    if (rank.count == 0) continue;
    for (int64_t r = 0; r < rank.count; ++r) {
      const int64_t at = (rank.batch(r) * f.steps + step) * f.width;
      for (int64_t v = 0; v < f.width; v += W) {
        const Vec total = load(dh + r * f.width + v) + load(f.dout + at + v);
        store(dp + r * f.width + v, unclipped(total, load(f.out + at + v), f.projection_clip));
      }
      copy(f.dstate + at, dp + r * f.width, f.width);
    }
    clear(sum, rank.count * f.width);
    for (int64_t group = 0; group < f.cells; group += lstm_group) {
      const int64_t n = f.cells - group < lstm_group ? f.cells - group : lstm_group;
      product<Floats, Plain, Assign>(rank.count, n, f.width, dp, f.width, f.projection + group * f.width, n, dm,
                                     lstm_group);
      for (int64_t r = 0; r < rank.count; ++r) {
        lstm_cells_backward(f, rank, r, step, group, n, dm + r * lstm_group, dz + r * 4 * lstm_group);
      }
      for (int64_t gate = 0; gate < 4; ++gate) {
        product<Floats, Plain, Add>(rank.count, f.width, n, dz + gate * lstm_group, 4 * lstm_group,
                                    f.recurrent + (gate * f.cells + group) * f.width, f.width, sum, f.width);
      }
    }
    copy(dh, sum, rank.count * f.width);
  }
  for (int64_t r = 0; r < rows; ++r) copy(f.h + f.order[begin + r] * f.width, dh + r * f.width, f.width);
}

}  // namespace PK_ISA
}  // namespace pkernels
