// Kernels for AVX2 with fused multiply-add: 16 registers of 8 floats.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include <immintrin.h>

#define PK_AVX2  // its intrinsics may be used; GCC 12 tells the preprocessor nothing of the target
#define PK_ISA avx2
#define PK_WIDTH 8
#define PK_ROWS 8, 6
#define PK_PANEL 48
#define PK_KEYS 96
#include "unit.h"

namespace pkernels {
const Kernels* kernels_avx2() { return &avx2::table; }
}  // namespace pkernels

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
