// Moving rows between tensors (float32, bfloat16, float16) and float32 tiles.
#pragma once

#include <utility>

#include "../params.h"
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

static void transpose_square(float* to, int64_t to_ld, const float* from, int64_t from_ld) {
  const std::make_integer_sequence<int, W> every;
  Vec x[W], y[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) x[i] = load(from + i * from_ld);
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
  for (int i = 0; i < W; ++i) store(to + i * to_ld, x[i]);
}

// to[c][r] = from[r][c], with columns r >= rows set to 0 up to `lanes`.
static void transpose(float* to, int64_t lanes, const float* from, int64_t ld, int64_t rows, int64_t width) {
  const int64_t full_rows = rows / W * W, full_width = width / W * W;
  for (int64_t c = 0; c < full_width; c += W) {
    for (int64_t r = 0; r < full_rows; r += W) transpose_square(to + c * lanes + r, lanes, from + r * ld + c, ld);
  }
  for (int64_t c = 0; c < width; ++c) {
    for (int64_t r = c < full_width ? full_rows : 0; r < rows; ++r) to[c * lanes + r] = from[r * ld + c];
    for (int64_t r = rows; r < lanes; ++r) to[c * lanes + r] = 0;
  }
}

static void scale_by(float* x, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += W) store(x + i, load(x + i) * factor);
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
