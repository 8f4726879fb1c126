// Products of bfloat16 pairs, for processors that have them (AVX512-BF16): a word holds two
// neighbours along the depth, the first in its low half.
#pragma once

#include "product.h"
#include "rows.h"

namespace pkernels {
namespace PK_ISA {

#ifdef PK_PAIRS
struct Pairs {
  PK_INLINE Vec multiply_add(float a, Vec b, Vec sum) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(a), (__m512bh)b);
  }
};

PK_INLINE Vec pair_of(UInt low, UInt high) { return (Vec)((low & 0xFFFF) | (high << 16)); }
PK_INLINE UInt round_bf16(Vec x) { return (UInt)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)x)); }

// Whether pairs can be scaled without rounding: by powers of two.
PK_INLINE bool exact(float scale) { return (__builtin_bit_cast(uint32_t, scale) & 0x7FFFFF) == 0; }

// The scaled queries of a panel, words [feature / 2][lane].
static void scale_pairs(float* words, int64_t n, float factor) {
  for (int64_t i = 0; i < n; i += W) {
    const UInt word = (UInt)load(words + i);
    const Vec low = (Vec)(word << 16) * factor, high = (Vec)(word & 0xFFFF0000) * factor;
    store(words + i, pair_of((UInt)low >> 16, (UInt)high >> 16));
  }
}

// words[j / 2][c] of rows j and j + 1; a missing last row is 0.
static void pack_rows(float* words, int64_t ld, const char* from, int64_t step, int64_t rows, int64_t width) {
  for (int64_t j = 0; j < rows; j += 2) {
    const uint16_t* low = (const uint16_t*)from + j * step;
    const uint16_t* high = j + 1 < rows ? low + step : nullptr;
    float* to = words + j / 2 * ld;
    int64_t c = 0;
    for (; c + W <= width; c += W) store(to + c, pair_of(widen(low + c), high ? widen(high + c) : UInt{}));
    for (; c < width; ++c) {
      const uint32_t word = low[c] | (high ? (uint32_t)high[c] << 16 : 0);
      __builtin_memcpy(to + c, &word, 4);
    }
  }
}

// Weights [key][lane] to words [key / 2][lane], in place: word row j is written after rows 2j and
// 2j + 1 were read.
static void pack_weights(float* p, int64_t width, int64_t keys) {
  for (int64_t j = 0; j < keys; j += 2) {
    for (int64_t c = 0; c < width; c += W) {
      const UInt high = j + 1 < keys ? round_bf16(load(p + (j + 1) * width + c)) : UInt{};
      store(p + j / 2 * width + c, pair_of(round_bf16(load(p + j * width + c)), high));
    }
  }
}

// Rows of bfloat16 to words [row / 2][column], with 0 for what is not finite; whether all were.
static bool read_row_pairs(float* words, int64_t ld, const char* from, int64_t step, int64_t rows, int64_t width) {
  read_rows(words, ld, from, Type::bf16, step, rows, width);
  const bool finite = all_finite(words, ld, rows, width);
  for (int64_t i = 0; !finite && i < rows * ld; ++i) words[i] = words[i] * 0 == 0 ? words[i] : 0;
  pack_weights(words, ld, rows);
  return finite;
}

// x[key][lane] to words [key / 2][lane], and to words [key][lane / 2], `ld` and `ld / 2` apart.
static void pack_keys(float* words, const float* x, int64_t ld, int64_t keys, int64_t lanes) {
  for (int64_t j = 0; j < keys; j += 2) {
    for (int64_t c = 0; c < lanes; c += W) {
      const UInt high = j + 1 < keys ? round_bf16(load(x + (j + 1) * ld + c)) : UInt{};
      store(words + j / 2 * ld + c, pair_of(round_bf16(load(x + j * ld + c)), high));
    }
  }
}
static void pack_lanes(float* words, const float* x, int64_t ld, int64_t keys, int64_t lanes) {
  for (int64_t j = 0; j < keys; ++j) {
    uint16_t* to = (uint16_t*)(words + j * (ld / 2));
    for (int64_t c = 0; c < lanes; c += W) store_bf16(to + c, load(x + j * ld + c));
  }
}
#endif

}  // namespace PK_ISA
}  // namespace pkernels
