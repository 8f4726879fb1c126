// The one matrix product of the CPU kernels: C (+)= op(A) B, with A read by broadcast in its
// natural layout and the columns of B and C in the lanes.
//
// A block of MR x NV accumulators stays in registers (6 x 2 of 8 lanes on AVX2, 8 x 3 of 16
// on AVX-512), so that two multiply-adds a cycle need fewer than two loads.
#pragma once

#include "simd.h"

namespace pkernels {
namespace PK_ISA {

// A(m, k): row-major for `Plain`, its transpose for `Transposed`.
struct Plain {
  PK_INLINE const float* at(const float* a, int64_t lda, int64_t m, int64_t k) { return a + m * lda + k; }
};
struct Transposed {
  PK_INLINE const float* at(const float* a, int64_t lda, int64_t m, int64_t k) { return a + k * lda + m; }
};

// Overwrite C, or add to it.
struct Assign {
  PK_INLINE void put(float* c, Vec x) { store(c, x); }
};
struct Add {
  PK_INLINE void put(float* c, Vec x) { store(c, load(c) + x); }
};

template <class Form, class Put, int M, int N>
static void block(int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc) {
  Vec sum[M][N] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec columns[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) columns[n] = load(b + k * ldb + n * W);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Vec value = splat(*Form::at(a, lda, m, k));
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[m][n] += value * columns[n];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) Put::put(c + m * ldc + n * W, sum[m][n]);
  }
}

// The last rows: fewer than PK_MR of them.
template <class Form, class Put, int N, int M = PK_MR - 1>
static void tail(int64_t rows, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                 int64_t ldc) {
  if constexpr (M > 0) {
    if (rows == M) {
      block<Form, Put, M, N>(depth, a, lda, b, ldb, c, ldc);
    } else {
      tail<Form, Put, N, M - 1>(rows, depth, a, lda, b, ldb, c, ldc);
    }
  }
}

template <class Form, class Put, int N>
static void panel(int64_t rows, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                  int64_t ldc) {
  int64_t m = 0;
  for (; m + PK_MR <= rows; m += PK_MR) {
    block<Form, Put, PK_MR, N>(depth, Form::at(a, lda, m, 0), lda, b, ldb, c + m * ldc, ldc);
  }
  tail<Form, Put, N>(rows - m, depth, Form::at(a, lda, m, 0), lda, b, ldb, c + m * ldc, ldc);
}

// C[rows][columns] (+)= A[rows][depth] B[depth][columns]; `columns` is a multiple of W.
template <class Form, class Put>
static void product(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda, const float* b,
                    int64_t ldb, float* c, int64_t ldc) {
  int64_t n = 0;
  for (; n + PK_NV * W <= columns; n += PK_NV * W) {
    panel<Form, Put, PK_NV>(rows, depth, a, lda, b + n, ldb, c + n, ldc);
  }
  for (; n < columns; n += W) {
    panel<Form, Put, 1>(rows, depth, a, lda, b + n, ldb, c + n, ldc);
  }
}

// The same, where a factor of 0 wins over a NaN or infinity beside it: what a mask excluded
// must not leak. Only for tiles that hold such values.
template <class Form, class Put>
static void careful_product(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda,
                            const float* b, int64_t ldb, float* c, int64_t ldc) {
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < columns; n += W) {
      Vec sum = {};
      for (int64_t k = 0; k < depth; ++k) {
        const Vec value = splat(*Form::at(a, lda, m, k)), column = load(b + k * ldb + n);
        // The same fused multiply-add in the same order as `block`: the same bits.
        sum = select((value == 0) | (column == 0), sum, sum + value * column);
      }
      Put::put(c + m * ldc + n, sum);
    }
  }
}

}  // namespace PK_ISA
}  // namespace pkernels
