// Moving rows between tensors (float32, bfloat16, float16) and float32 tiles.
#pragma once

#include <utility>

#include "../band.h"
#include "simd.h"

namespace pkernels {
namespace PK_ISA {

// A tile of rows to read: row r starts at data + r * stride.
struct Tile {
  const float* data;
  int64_t stride;
};

PK_INLINE int64_t bytes_of(Type type) { return type == Type::f32 ? 4 : 2; }

PK_INLINE const char* row_at(const Rows& x, Type type, int64_t batch, int64_t head, int64_t row) {
  return (const char*)x.data + (batch * x.batch + head * x.head + row * x.row) * bytes_of(type);
}

// Rows of a tensor, `step` elements apart.
struct Lines {
  const char* data;
  int64_t step;
};

// Rows first, first + step, ... of x, or those of a list (counted from `start`), which are copied
// to rows of `ld` elements behind one another.
static Lines lines_of(const Rows& x, Type type, int64_t batch, int64_t head, int64_t start, int64_t first, int64_t step,
                      const int32_t* list, int64_t count, int64_t width, float* copy, int64_t ld) {
  if (!list) return {row_at(x, type, batch, head, start + first), x.row * step};
  char* to = (char*)copy;
  for (int64_t r = 0; r < count; ++r, to += ld * bytes_of(type)) {
    __builtin_memcpy(to, row_at(x, type, batch, head, start + list[r]), width * bytes_of(type));
  }
  return {(const char*)copy, ld};
}

PK_INLINE float load_one(const void* p, Type type) {
  if (type == Type::f32) return *(const float*)p;
  uint16_t padded[W] = {*(const uint16_t*)p};
  return type == Type::bf16 ? load_bf16(padded)[0] : load_f16(padded)[0];
}

PK_INLINE Vec load_any(const char* p, Type type) {
  if (type == Type::f32) return load((const float*)p);
  return type == Type::bf16 ? load_bf16((const uint16_t*)p) : load_f16((const uint16_t*)p);
}

PK_INLINE void store_any(char* p, Type type, Vec x) {
  if (type == Type::f32) return store((float*)p, x);
  if (type == Type::bf16) return store_bf16((uint16_t*)p, x);
  store_f16((uint16_t*)p, x);
}

// One row of `width` elements to floats.
static void read_row(float* to, const char* from, Type type, int64_t width) {
  const int64_t size = bytes_of(type);
  int64_t i = 0;
  for (; i + W <= width; i += W) store(to + i, load_any(from + i * size, type));
  for (; i < width; ++i) to[i] = load_one(from + i * size, type);
}

static void write_row(char* to, Type type, const float* from, int64_t width) {
  const int64_t size = bytes_of(type);
  int64_t i = 0;
  for (; i + W <= width; i += W) store_any(to + i * size, type, load(from + i));
  if (i < width) {
    float last[W] = {};
    char packed[W * 4];
    for (int64_t c = i; c < width; ++c) last[c - i] = from[c];
    store_any(packed, type, load(last));
    __builtin_memcpy(to + i * size, packed, (width - i) * size);
  }
}

// Rows to a tile of leading dimension `ld`, filled with zeros up to it.
static void read_rows(float* to, int64_t ld, const char* from, Type type, int64_t step, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    read_row(to + r * ld, from + r * step * bytes_of(type), type, width);
    for (int64_t i = width; i < ld; ++i) to[r * ld + i] = 0;
  }
}

// Float rows in place, unless they are so far apart that they fall into few cache sets.
static Tile view_rows(float* scratch, int64_t ld, const char* from, Type type, int64_t step, int64_t rows,
                      int64_t width) {
  if (type == Type::f32 && step <= ld + 16) return Tile{(const float*)from, step};
  read_rows(scratch, ld, from, type, step, rows, width);
  return Tile{scratch, ld};
}

// The same for an operand that is read in whole vectors.
static Tile view_whole_rows(float* scratch, int64_t ld, const char* from, Type type, int64_t step, int64_t rows,
                            int64_t width) {
  if (width % W == 0) return view_rows(scratch, ld, from, type, step, rows, width);
  read_rows(scratch, ld, from, type, step, rows, width);
  return Tile{scratch, ld};
}

// A square of W x W in registers: each stage interleaves the rows of both halves, and W = 2**n
// such perfect shuffles of n stages make a transpose.
template <int... I>
PK_INLINE Vec interleave_low(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / 2 + I % 2 * W)...);
}
template <int... I>
PK_INLINE Vec interleave_high(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (W / 2 + I / 2 + I % 2 * W)...);
}

// store(i, column i) of the square whose row i is load(i).
template <class Load, class Store>
PK_INLINE void transpose_square(const Load& load, const Store& store) {
  const std::make_integer_sequence<int, W> every;
  Vec x[W], y[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) x[i] = load(i);
#pragma GCC unroll 4
  for (int stage = 1; stage < W; stage *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; ++i) {
      y[2 * i] = interleave_low(x[i], x[i + W / 2], every);
      y[2 * i + 1] = interleave_high(x[i], x[i + W / 2], every);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) x[i] = y[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) store(i, x[i]);
}

// to[c * ld + r] = row r of the tensor at column c, as floats; lanes r from `rows` to `lanes` are 0.
static void read_transposed(float* to, int64_t ld, int64_t lanes, const char* from, Type type, int64_t step,
                            int64_t rows, int64_t width) {
  const int64_t size = bytes_of(type);
  for (int64_t r = 0; r < lanes; r += W) {
    for (int64_t c = 0; c < width; c += W) {
      const char* at = from + (r * step + c) * size;
      float* square = to + c * ld + r;
      if (r + W <= rows && c + W <= width) {
        transpose_square([&](int i) __attribute__((always_inline)) { return load_any(at + i * step * size, type); },
                         [&](int i, Vec x) __attribute__((always_inline)) { store(square + i * ld, x); });
        continue;
      }
      float some[W * W] = {};
      const int64_t n = smaller(W, width - c);
      for (int64_t i = 0; i < smaller(W, rows - r); ++i) read_row(some + i * W, at + i * step * size, type, n);
      transpose_square([&](int i) __attribute__((always_inline)) { return load(some + i * W); },
                       [&](int i, Vec x) __attribute__((always_inline)) {
                         if (i < n) store(square + i * ld, x);
                       });
    }
  }
}

// The inverse: row r of the tensor at column c = from[c * ld + r] * factor[r].
static void write_transposed(char* to, Type type, int64_t step, const float* from, int64_t ld, const float* factor,
                             int64_t rows, int64_t width) {
  const int64_t size = bytes_of(type);
  for (int64_t r = 0; r < rows; r += W) {
    const Vec times = load(factor + r);
    for (int64_t c = 0; c < width; c += W) {
      char* at = to + (r * step + c) * size;
      const float* square = from + c * ld + r;
      const int64_t n = smaller(W, width - c), m = smaller(W, rows - r);
      const auto column = [&](int i)
                              __attribute__((always_inline)) { return i < n ? load(square + i * ld) * times : Vec{}; };
      if (n == W && m == W) {
        transpose_square(
            column, [&](int i, Vec x) __attribute__((always_inline)) { store_any(at + i * step * size, type, x); });
        continue;
      }
      float some[W * W];
      transpose_square(column, [&](int i, Vec x) __attribute__((always_inline)) { store(some + i * W, x); });
      for (int64_t i = 0; i < m; ++i) write_row(at + i * step * size, type, some + i * W, n);
    }
  }
}

// n is a multiple of W in both.
static void scale_by(float* x, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += W) store(x + i, load(x + i) * factor);
}
static void fill_zero(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += W) store(x + i, Vec{});
}

static bool all_finite(const float* x, int64_t ld, int64_t rows, int64_t width) {
  Vec sum = {};
  float rest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t i = 0;
    for (; i + W <= width; i += W) sum += load(x + r * ld + i) * 0.0f;  // 0, or NaN for ever
    for (; i < width; ++i) rest += x[r * ld + i] * 0.0f;
  }
  return !any(sum != 0.0f) && rest == 0;
}

}  // namespace PK_ISA
}  // namespace pkernels
