// The AVX-512 kernels' shapes on a processor with AVX2: the compiler splits each vector of 16
// floats in two.
#pragma GCC target("avx2,fma,f16c")
#include <immintrin.h>

#define PK_ISA wide
#define PK_WIDTH 16
#define PK_MR 8
#define PK_NV 3
#define PK_LANES 144
#define PK_KEYS 128
#include "cpu/unit.h"

namespace pkernels {
const Kernels* kernels_wide() { return &wide::table; }
}  // namespace pkernels
