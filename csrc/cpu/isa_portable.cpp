// Kernels for any processor: vectors of 4 floats, as SSE2 and NEON have them.
#define PK_ISA portable
#define PK_WIDTH 4
#if defined(__aarch64__)
#define PK_ROWS 8, 8
#else
#define PK_ROWS 8, 4
#endif
#define PK_PANEL 48
#define PK_KEYS 96
#include "unit.h"

namespace pkernels {
const Kernels* kernels_portable() { return &portable::table; }
}  // namespace pkernels
