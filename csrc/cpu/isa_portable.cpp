// Kernels for any processor: vectors of 4 floats, as SSE2 and NEON have them.
#define PK_ISA portable
#define PK_WIDTH 4
#if defined(__aarch64__)
#define PK_MR 8
#define PK_NV 2
#else
#define PK_MR 4
#define PK_NV 2
#endif
#define PK_LANES 64
#define PK_KEYS 64
#include "unit.h"

namespace pkernels {
const Kernels* kernels_portable() { return &portable::table; }
}  // namespace pkernels
