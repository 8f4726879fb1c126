// What a per-instruction-set unit compiles, once its macros and target are set: PK_ISA (a
// namespace), PK_WIDTH (floats in a vector), PK_ROWS (rows of the register blocks of a product
// that are 1, 2, ... vectors wide), PK_PANEL (queries whose scores are worked on at a time) and
// PK_KEYS (keys of a tile). Nothing here may instantiate templates of the standard library: the
// linker could keep this unit's copy for all.
#include "backward.h"
#include "buckets.h"
#include "forward.h"
#include "lstm.h"
#include "narrow.h"
#include "order.h"

namespace pkernels {
namespace PK_ISA {

#ifdef PK_PAIRS
constexpr bool pairs = true;
#else
constexpr bool pairs = false;
#endif

// Sums that differ, each depending on itself through a product: nothing can be merged, and
// nothing but fused multiply-adds fits.
template <bool InPairs>
static double peak_of(int64_t rounds) {
  constexpr int peak_rows = block_rows[block_columns];
  Vec sum[peak_rows][block_columns];
  for (int m = 0; m < peak_rows; ++m) {
    for (int n = 0; n < block_columns; ++n) sum[m][n] = splat(1.0f + m * block_columns + n);
  }
  const Vec a = splat(0.5f + 1e-9f * rounds), b = splat(1e-3f * rounds);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int m = 0; m < peak_rows; ++m) {
#pragma GCC unroll 4
      for (int n = 0; n < block_columns; ++n) {
#ifdef PK_PAIRS
        if constexpr (InPairs) {
          sum[m][n] = Pairs::multiply_add(0.0f, b, sum[m][n]);
          continue;
        }
#endif
        sum[m][n] = sum[m][n] * a + b;
      }
    }
  }
  Vec total = {};
  for (int m = 0; m < peak_rows; ++m) {
    for (int n = 0; n < block_columns; ++n) total += sum[m][n];
  }
  return any(total != total) ? 0.0 : (InPairs ? 4.0 : 2.0) * rounds * peak_rows * block_columns * W;
}

static double peak(int64_t rounds, bool in_pairs) {
  return in_pairs && pairs ? peak_of<true>(rounds) : peak_of<false>(rounds);
}

#define PK_STRING_OF(name) #name
#define PK_STRING(name) PK_STRING_OF(name)

static const Kernels table = {
    PK_STRING(PK_ISA),
    pairs,
    W,
    max_width,
    max_keys,
    forward_scratch,
    backward_scratch,
    forward,
    narrow_scratch,
    narrow,
    narrow_finish,
    backward,
    dense_gradient,
    sum_parts,
    softmaxes_size,
    forward_chunks,
    finish_chunks,
    sums_size,
    backward_chunks,
    finish_sums,
    hash_scratch,
    hash,
    lstm_forward,
    lstm_backward,
    peak,
};

}  // namespace PK_ISA
}  // namespace pkernels
