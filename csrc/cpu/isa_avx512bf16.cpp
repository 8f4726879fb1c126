// Kernels for AVX-512 with products of bfloat16 pairs.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#include <immintrin.h>

#define PK_AVX512  // its intrinsics may be used; GCC 12 tells the preprocessor nothing of the target
#define PK_PAIRS
#define PK_ISA avx512bf16
#define PK_WIDTH 16
#define PK_ROWS 8, 8, 8, 6
#define PK_PANEL 48
#define PK_KEYS 144
#include "unit.h"

namespace pkernels {
const Kernels* kernels_avx512bf16() { return &avx512bf16::table; }
}  // namespace pkernels

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
