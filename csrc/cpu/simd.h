// Vectors of PK_WIDTH floats, in the compiler's own vector types: one source for every
// instruction set. Included by the per-instruction-set units only, inside their namespace.
#pragma once

#include <cstdint>

#define PK_INLINE static inline __attribute__((always_inline))

namespace pkernels {
namespace PK_ISA {

constexpr int W = PK_WIDTH;

typedef float Vec __attribute__((vector_size(W * 4)));
typedef int32_t Int __attribute__((vector_size(W * 4)));
typedef uint32_t UInt __attribute__((vector_size(W * 4)));
typedef uint64_t ULong __attribute__((vector_size(W * 8)));
typedef uint16_t Half __attribute__((vector_size(W * 2)));

// Unaligned views for loads and stores.
typedef float VecU __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t IntU __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint16_t HalfU __attribute__((vector_size(W * 2), aligned(2), may_alias));

constexpr float infinity = __builtin_inff();

PK_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); }
PK_INLINE void store(float* p, Vec x) { *reinterpret_cast<VecU*>(p) = x; }
PK_INLINE Vec splat(float x) { return x - Vec{}; }
PK_INLINE Int load_int(const int32_t* p) { return *reinterpret_cast<const IntU*>(p); }
PK_INLINE Int isplat(int32_t x) { return x - Int{}; }

PK_INLINE Int lanes() {
  Int v;
  for (int i = 0; i < W; ++i) v[i] = i;
  return v;
}

PK_INLINE Vec select(Int mask, Vec yes, Vec no) { return (Vec)((mask & (Int)yes) | (~mask & (Int)no)); }

// NaN in `x` is passed over by maximum, kept by at_least. One instruction each, which the
// compiler does not find by itself for vectors of 16.
PK_INLINE Vec maximum(Vec x, Vec y) {
#ifdef PK_AVX512
  return (Vec)_mm512_max_ps((__m512)x, (__m512)y);
#else
  return x > y ? x : y;
#endif
}

PK_INLINE Vec at_least(Vec x, float least) {
#ifdef PK_AVX512
  return (Vec)_mm512_max_ps((__m512)splat(least), (__m512)x);
#else
  return x < least ? splat(least) : x;
#endif
}

PK_INLINE bool any(Int mask) {
#ifdef PK_AVX512
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#else
  int32_t found = 0;
  for (int i = 0; i < W; ++i) found |= mask[i];
  return found != 0;
#endif
}

// --- bfloat16 and float16 to and from float32, rounding to nearest even ---------------

PK_INLINE UInt widen(const uint16_t* p) {
#if defined(PK_AVX512)
  return (UInt)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
#elif defined(PK_AVX2)
  return (UInt)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
#else
  return __builtin_convertvector(*reinterpret_cast<const HalfU*>(p), UInt);
#endif
}

PK_INLINE void narrow(uint16_t* p, UInt x) { *reinterpret_cast<HalfU*>(p) = __builtin_convertvector(x, Half); }

PK_INLINE Vec load_bf16(const uint16_t* p) { return (Vec)(widen(p) << 16); }

PK_INLINE void store_bf16(uint16_t* p, Vec x) {
  const UInt u = (UInt)x;
  const UInt rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  const UInt nan = (u >> 16) | 0x40;
  const UInt isnan = (UInt)(x != x);
  narrow(p, (isnan & nan) | (~isnan & rounded));
}

PK_INLINE Vec load_f16(const uint16_t* p) {
#if defined(PK_AVX512)
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(PK_AVX2)
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  const UInt h = widen(p);
  const UInt sign = (h & 0x8000) << 16;
  // Exponent and mantissa in place, times 2**112: right for subnormals too.
  const Vec magnitude = (Vec)((h & 0x7FFF) << 13) * 0x1p112f;
  const UInt special = (UInt)((h & 0x7C00) == 0x7C00) & 0x7F800000u;
  return (Vec)((UInt)magnitude | special | sign);
#endif
}

PK_INLINE void store_f16(uint16_t* p, Vec x) {
  const UInt u = (UInt)x;
  const UInt sign = (u >> 16) & 0x8000;
  const UInt a = u & 0x7FFFFFFF;
  // Normal results: rebias the exponent by -112 and round the lower 13 bits away.
  const UInt normal = (a - (112u << 23) + 0xFFF + ((a >> 13) & 1)) >> 13;
  // Subnormal results: adding 0.5 aligns the mantissa and lets the hardware round.
  const UInt small = (UInt)((Vec)a + 0.5f) - 0x3F000000u;
  const UInt special = 0x7C00 | ((UInt)(a > 0x7F800000u) & 0x200);
  UInt h = normal;
  const UInt issmall = (UInt)(a < 0x38800000u), isbig = (UInt)(a >= 0x477FF000u);
  h = (issmall & small) | (~issmall & h);
  h = (isbig & special) | (~isbig & h);
  narrow(p, h | sign);
}

// High and low halves of the products of 32-bit lanes and a 32-bit constant.
PK_INLINE void multiply(UInt a, uint32_t b, UInt& high, UInt& low) {
  low = a * b;
#if defined(PK_AVX512)
  const __m512i factor = _mm512_set1_epi64(b);
  const __m512i even = _mm512_mul_epu32((__m512i)a, factor);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), factor);
  high = (UInt)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
#elif defined(PK_AVX2)
  const __m256i factor = _mm256_set1_epi64x(b);
  const __m256i even = _mm256_mul_epu32((__m256i)a, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), factor);
  high = (UInt)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
#else
  const ULong wide = __builtin_convertvector(a, ULong) * (uint64_t)b;
  high = __builtin_convertvector(wide >> 32, UInt);
#endif
}

}  // namespace PK_ISA
}  // namespace pkernels
