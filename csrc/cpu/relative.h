// A bias of a query times a row of a table for each distance, as Transformer-XL computes it (Dai et
// al. 2019, arXiv:1901.02860, appendix B): the product first, then its rows are shifted.
//
//   T = table Rᵀ, [row][lane]      bias[key][lane] = T[key - lane + width - 1][lane]
//
// A lane's shift is its number, which is a sum of powers of two: log2(W) delays make it, each taken
// by the lanes that have its bit, in registers.
#pragma once

#include "pairs.h"

namespace pkernels {
namespace PK_ISA {

// The lanes of `set` that have a bit, the others of `clear`.
template <int Bit, int... I>
PK_INLINE Vec of_bit(Vec set, Vec clear, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(clear, set, (I & Bit ? W + I : I)...);
}

// Delays lane l of what is pushed by l rows, or, the inverse, by W - 1 - l.
template <bool Inverse>
struct Shear {
  Vec held[W] = {};

  // `row` is only looked at modulo W / 2, and is a constant once loops are unrolled.
  template <int Delay = 1>
  __attribute__((always_inline)) inline Vec push(Vec x, int row) {
    if constexpr (Delay == W) {
      return x;
    } else {
      const std::make_integer_sequence<int, W> every;
      Vec& old = held[Delay + row % Delay];
      const Vec late = old;
      old = x;
      return push<2 * Delay>(Inverse ? of_bit<Delay>(x, late, every) : of_bit<Delay>(late, x, every), row);
    }
  }
};

// store(row, ...) for `rows` rows, rounded up to a multiple of W / 2, of what load(row) gave.
template <bool Inverse, class Load, class Store>
PK_INLINE void shear(int64_t rows, const Load& load, const Store& store) {
  Shear<Inverse> lanes;
  for (int64_t first = 0; first < rows; first += W / 2) {
#pragma GCC unroll 8
    for (int row = 0; row < W / 2; ++row) store(first + row, lanes.push(load(first + row), row));
  }
}

constexpr int64_t sheared_rows = PK_KEYS + PK_PANEL + W;  // of T, at most, and what is written beyond it
constexpr int64_t sheared_size = sheared_rows * PK_PANEL;

// Row j of the bias in place of row j of T, for `count` keys.
static void shear_rows(float* t, int64_t width, int64_t count) {
  for (int64_t g = 0; g < width; g += W) {
    float* from = t + (width - W - g) * width + g;
    shear<false>(
        count + W - 1, [&](int64_t row) __attribute__((always_inline)) { return load(from + row * width); },
        [&](int64_t row, Vec x) __attribute__((always_inline)) {
          if (row >= W - 1) store(t + (row - W + 1) * width + g, x);
        });
  }
}

// The inverse: T of `count` rows ds[key][lane], 0 where no pair is.
static void shear_back(const float* ds, int64_t ld, float* t, int64_t width, int64_t count) {
  const int64_t rows = count + width - 1;
  for (int64_t g = 0; g < width; g += W) {
    const int64_t first = width - W - g;
    for (int64_t row = 0; row < first; ++row) store(t + row * width + g, Vec{});
    shear<true>(
        count + W - 1,
        [&](int64_t row) __attribute__((always_inline)) { return row < count ? load(ds + row * ld + g) : Vec{}; },
        [&](int64_t row, Vec x) __attribute__((always_inline)) { store(t + (first + row) * width + g, x); });
    for (int64_t row = first + count + W - 1; row < rows; ++row) store(t + row * width + g, Vec{});
  }
}

// Of the rows of T of `keys` keys from m on and a panel: row u is row first + u * step of the table.
// Those from begin to end are there; the others are of pairs that are not.
struct TableRows {
  int64_t first, step, count, begin, end;

  TableRows(const Problem& p, const KeySegment& segment, int64_t m, int64_t keys, const QueryTile& queries,
            int64_t width)
      : first(segment.first + (m - width + 1) * segment.step - queries.first + p.zero),
        step(segment.step),
        count(keys + width - 1) {
    begin = larger(width - queries.count, first < 0 ? ceil_div(-first, step) : 0);
    end = larger(begin, first < p.table_rows ? smaller(count, ceil_div(p.table_rows - first, step)) : 0);
  }

  int64_t row(int64_t u) const { return first + u * step; }
  int64_t there() const { return end - begin; }
};

// The scaled Rᵀ of a panel's queries, `width` floats apart: of features, or of pairs of features.
static void read_relative(const Problem& p, bool pairs, float* rt, int64_t width, int64_t lanes, const char* from,
                          int64_t step, int64_t count) {
#ifdef PK_PAIRS
  if (pairs) {
    read_transposed(rt, width, lanes, from, Type::f32, step / 2, count, p.dr / 2);
    if (exact(p.scale)) scale_pairs(rt, p.dr / 2 * width, p.scale);
    return;
  }
#endif
  read_transposed(rt, width, lanes, from, p.type, step, count, p.dr);
  scale_by(rt, p.dr * width, p.scale);
}

// That, and scratch for rows of the table.
struct RelativeSide {
  const float* rt;
  float* table;
  int64_t d;  // leading dimension of those rows
  bool pairs;
};

// Rows [begin, end) of those, as floats.
static Tile table_of(const Problem& p, int64_t head, const TableRows& rows, float* scratch, int64_t ld) {
  return view_rows(scratch, ld, row_at(p.table, p.type, 0, head, rows.row(rows.begin)), p.type, p.table.row * rows.step,
                   rows.there(), p.dr);
}

// T of those rows, `lanes` floats apart; Rᵀ is `width` floats apart.
static void multiply_table(const Problem& p, int64_t head, const TableRows& rows, const RelativeSide& side,
                           int64_t lanes, int64_t width, float* t) {
#ifdef PK_PAIRS
  if (side.pairs) {
    const char* from = row_at(p.table, p.type, 0, head, rows.row(rows.begin));
    product<Pairs, Plain, Assign>(rows.there(), lanes, p.dr / 2, (const float*)from, p.table.row * rows.step / 2,
                                  side.rt, width, t, lanes);
    if (!exact(p.scale)) scale_by(t, rows.there() * lanes, p.scale);
    return;
  }
#endif
  const Tile table = table_of(p, head, rows, side.table, side.d);
  product<Floats, Plain, Assign>(rows.there(), lanes, p.dr, table.data, table.stride, side.rt, width, t, lanes);
}

// Calls f(key, lane, row of the table) for pairs whose keys and queries advance by different steps.
template <class F>
static void for_each_apart(const Problem& p, const KeySegment& segment, int64_t m, int64_t keys,
                           const QueryTile& queries, F f) {
  const int64_t start = segment.first + m * segment.step - queries.first + p.zero;
  for (int64_t j = 0; j < keys; ++j) {
    for (int64_t c = 0; c < queries.count; ++c) {
      const int64_t row = start + j * segment.step - c * queries.step;
      if (row >= 0 && row < p.table_rows) f(j, c, row);
    }
  }
}

}  // namespace PK_ISA
}  // namespace pkernels
