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

typedef int16_t ShortWords __attribute__((vector_size(64)));

PK_INLINE Vec pair_of(UInt low, UInt high) { return (Vec)((low & 0xFFFF) | (high << 16)); }

// Two vectors to the pairs of their lanes, rounded.
PK_INLINE Vec round_pairs(Vec low, Vec high) {
  constexpr ShortWords order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
  return (Vec)_mm512_permutexvar_epi16((__m512i)order, halves);
}

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

// words[j / 2][c] of rows j and j + 1; a missing last row is 0. Whether all were finite.
static bool pack_rows(float* words, int64_t ld, const char* from, int64_t step, int64_t rows, int64_t width) {
  constexpr uint32_t low_exponent = 0x7F80, high_exponent = low_exponent << 16;
  Int found = {};
  bool finite = true;
  for (int64_t j = 0; j < rows; j += 2) {
    const uint16_t* low = (const uint16_t*)from + j * step;
    const uint16_t* high = j + 1 < rows ? low + step : nullptr;
    float* to = words + j / 2 * ld;
    int64_t c = 0;
    for (; c + W <= width; c += W) {
      const UInt word = (UInt)pair_of(widen(low + c), high ? widen(high + c) : UInt{});
      found |= (Int)((word & low_exponent) == low_exponent) | (Int)((word & high_exponent) == high_exponent);
      store(to + c, (Vec)word);
    }
    for (; c < width; ++c) {
      const uint32_t word = low[c] | (high ? (uint32_t)high[c] << 16 : 0);
      finite &= (word & low_exponent) != low_exponent && (word & high_exponent) != high_exponent;
      __builtin_memcpy(to + c, &word, 4);
    }
  }
  return finite && !any(found);
}

// Weights [key][lane] to words [key / 2][lane], in place: word row j is written after rows 2j and
// 2j + 1 were read.
static void pack_weights(float* p, int64_t width, int64_t keys) {
  for (int64_t j = 0; j < keys; j += 2) {
    for (int64_t c = 0; c < width; c += W) {
      const Vec high = j + 1 < keys ? load(p + (j + 1) * width + c) : Vec{};
      store(p + j / 2 * width + c, round_pairs(load(p + j * width + c), high));
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
      const Vec high = j + 1 < keys ? load(x + (j + 1) * ld + c) : Vec{};
      store(words + j / 2 * ld + c, round_pairs(load(x + j * ld + c), high));
    }
  }
}
static void pack_lanes(float* words, const float* x, int64_t ld, int64_t keys, int64_t lanes) {
  for (int64_t j = 0; j < keys; ++j) {
    uint16_t* to = (uint16_t*)(words + j * (ld / 2));
    for (int64_t c = 0; c < lanes; c += W) {
      _mm256_storeu_si256((__m256i*)(to + c), (__m256i)_mm512_cvtneps_pbh((__m512)load(x + j * ld + c)));
    }
  }
}
#endif

}  // namespace PK_ISA
}  // namespace pkernels
