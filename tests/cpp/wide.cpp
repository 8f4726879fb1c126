// The AVX-512 kernels' shapes on a processor with AVX2: the compiler splits each vector of 16
// floats in two.
#pragma GCC target("avx2,fma,f16c")
#include <immintrin.h>

#define PK_ISA wide
#define PK_WIDTH 16
#define PK_ROWS 8, 8, 8, 6
#define PK_PANEL 48
#define PK_KEYS 144
#include "cpu/unit.h"

namespace pkernels {
const Kernels* kernels_wide() { return &wide::table; }
}  // namespace pkernels
