// exp, log and the functions of gates, of vectors: exp and log to about one unit in the last place where softmax needs
// it.
#pragma once

#include "simd.h"

namespace pkernels {
namespace PK_ISA {

constexpr float log2e = 1.4426950408889634f, ln2 = 0.6931471805599453f;

template <int N>
PK_INLINE Vec polynomial(Vec x, const float (&coefficients)[N]) {
  Vec y = splat(coefficients[N - 1]);
#pragma GCC unroll 6
  for (int i = N - 2; i >= 0; --i) y = y * x + coefficients[i];
  return y;
}

// e**x for x <= 0; exactly 0 for -inf, 1 for 0, NaN for NaN. x log2(e) = n + f with |f| <= 1/2,
// without rounding the product; 2**f by a polynomial that meets 2**0 exactly.
template <int N>
PK_INLINE Vec exp_by(Vec x, const float (&power)[N]) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2**23: adding it rounds to an integer
#ifdef PK_AVX512
  // Below the smallest normal number comes 0, whatever the rest makes of x: numbers that are not
  // normal would cost a hundred times as much.
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  const Vec n = x * log2e + magic - magic;
  return (Vec)_mm512_maskz_scalef_ps(normal, (__m512)polynomial(x * log2e - n, power), (__m512)n);
#else
  x = at_least(x, -127 * ln2);
  const Vec shifted = x * log2e + magic;
  const Int n = (Int)shifted - 0x4B400000 + 127;
  return polynomial(x * log2e - (shifted - magic), power) * (Vec)(n << 23);
#endif
}

PK_INLINE Vec exp(Vec x) {
  constexpr float power[7] = {
      1.0f, 6.931472029e-1f, 2.402264791e-1f, 5.550332471e-2f, 9.618437358e-3f, 1.339887440e-3f, 1.535336188e-4f};
  return exp_by(x, power);
}

// The same to 3e-6, for what is rounded to bfloat16 next.
PK_INLINE Vec coarse_exp(Vec x) {
  constexpr float power[5] = {1.0f, 6.931241751e-1f, 2.402409911e-1f, 5.590642616e-2f, 9.582852945e-3f};
  return exp_by(x, power);
}

// log(x) for normal x > 0; infinity and NaN stay what they are. x = 2**e m with m in [2/3, 4/3],
// log m = 2 atanh(s) with s = (m - 1) / (m + 1).
PK_INLINE Vec log(Vec x) {
  constexpr float atanh[7] = {2.0f, 2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9, 2.0f / 11, 2.0f / 13};
  const Int e = ((Int)x - 0x3F2AAAAB) >> 23;
  const Vec m = (Vec)((Int)x - (e << 23));
  const Vec s = (m - 1.0f) / (m + 1.0f);
  const Vec y = __builtin_convertvector(e, Vec) * ln2 + s * polynomial(s * s, atanh);
  return select(x < __builtin_inff(), y, x);
}

PK_INLINE Vec magnitude(Vec x) { return (Vec)((Int)x & 0x7FFFFFFF); }

// 1 / (1 + e**-x), through a power that is at most 1.
PK_INLINE Vec sigmoid(Vec x) {
  const Vec power = exp(-magnitude(x)), y = 1.0f / (1.0f + power);
  return select(x < 0, power * y, y);
}

// (1 - e**-2|x|) / (1 + e**-2|x|) with the sign of x; near 0, where that cancels, x + x**3 q(x**2) with
// q fitted to (tanh(x) - x) / x**3 on [0, 5/8].
PK_INLINE Vec tanh(Vec x) {
  constexpr float q[5] = {-3.333328068e-1f, 1.333144158e-1f, -5.373971537e-2f, 2.063908614e-2f, -5.704986397e-3f};
  const Vec size = magnitude(x), square = x * x, power = exp(-2.0f * size);
  const Vec far = (1.0f - power) / (1.0f + power);
  const Vec signed_far = (Vec)((Int)far | ((Int)x & (int32_t)0x80000000));
  return select(size < 0.625f, x + x * square * polynomial(square, q), signed_far);
}

}  // namespace PK_ISA
}  // namespace pkernels
