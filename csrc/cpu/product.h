// The one matrix product of the CPU kernels: C (+)= op(A) B, with A read by broadcast in its
// natural layout and the columns of B and C in the lanes.
//
// A block of M x N accumulators stays in registers (8 x 3 of 16 lanes on AVX-512, 6 x 2 of 8 on
// AVX2), so that two multiply-adds a cycle need fewer than two loads. Elements are 32-bit words:
// a float, or where the processor multiplies pairs, two neighbours along the depth.
#pragma once

#include "simd.h"

namespace pkernels {
namespace PK_ISA {

// Words are floats.
struct Floats {
  PK_INLINE Vec multiply_add(float a, Vec b, Vec sum) { return sum + splat(a) * b; }
};

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

constexpr int block_rows[] = {0, PK_ROWS};                           // M by N
constexpr int block_columns = sizeof(block_rows) / sizeof(int) - 1;  // N at most

template <class Words, class Form, class Put, int M, int N>
static void block(int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc) {
  Vec sum[M][N] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec columns[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) columns[n] = load(b + k * ldb + n * W);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const float word = *Form::at(a, lda, m, k);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[m][n] = Words::multiply_add(word, columns[n], sum[m][n]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) Put::put(c + m * ldc + n * W, sum[m][n]);
  }
}

template <class Words, class Form, class Put, int N, class Between>
static void columns_of(int64_t rows, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
                       int64_t ldc, const Between& between) {
  constexpr int M = block_rows[N];
  int64_t m = 0;
  auto blocks = [&]<int Rows>() __attribute__((always_inline)) {
    for (; m + Rows <= rows; m += Rows) {
      block<Words, Form, Put, Rows, N>(depth, Form::at(a, lda, m, 0), lda, b, ldb, c + m * ldc, ldc);
      between();
    }
  };
  blocks.template operator()<M>();
  if constexpr (M > 4) blocks.template operator()<4>();
  blocks.template operator()<2>();
  blocks.template operator()<1>();
}

// C[rows][columns] (+)= A[rows][depth] B[depth][columns]; `columns` is a multiple of W. Calls
// between() after every block.
template <class Words, class Form, class Put, class Between>
static void interrupted_product(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda,
                                const float* b, int64_t ldb, float* c, int64_t ldc, const Between& between) {
  int64_t left = columns / W;
  auto take = [&]<int N>() __attribute__((always_inline)) {
    columns_of<Words, Form, Put, N>(rows, depth, a, lda, b, ldb, c, ldc, between);
    b += N * W, c += N * W, left -= N;
  };
  // As few blocks as there can be, of widths that differ by one at most.
  for (int64_t blocks = (left + block_columns - 1) / block_columns; blocks > 0; --blocks) {
    switch ((left + blocks - 1) / blocks) {
      case 1:
        take.template operator()<1>();
        break;
      case 2:
        take.template operator()<2>();
        break;
      case 3:
        if constexpr (block_columns >= 3) take.template operator()<3>();
        break;
      case 4:
        if constexpr (block_columns >= 4) take.template operator()<4>();
        break;
    }
  }
}

template <class Words, class Form, class Put>
static void product(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda, const float* b,
                    int64_t ldb, float* c, int64_t ldc) {
  interrupted_product<Words, Form, Put>(rows, columns, depth, a, lda, b, ldb, c, ldc, [] {});
}

// The same, where a factor of 0 wins over a NaN or infinity beside it: what a mask excluded
// must not leak. Only for tiles that hold such values.
template <class Form, class Put>
static void careful_product(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda, const float* b,
                            int64_t ldb, float* c, int64_t ldc) {
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
