// The instructions of sm_80 that the kernels are made of, under names (PTX ISA, sections 9.7.9
// "cp.async", 9.7.14 "ldmatrix", "mma.m16n8k16" and "mma.m16n8k8").
#pragma once

#include <cstdint>

#define PK_DEVICE __device__ __forceinline__

namespace pkernels {
namespace cuda {

// The 16-bit types, two numbers in a register.
template <uint32_t One, uint32_t Exponent>
struct Halves {
  static constexpr int halves = 1;    // 16-bit words of a number
  static constexpr int columns = 16;  // features of a product
  static constexpr uint32_t ones = One | One << 16;

  // All bits of each number of x that is not finite.
  static PK_DEVICE uint32_t unclean(uint32_t x) {
    const uint32_t low = (x & Exponent) == Exponent ? 0xFFFFu : 0;
    const uint32_t high = (x >> 16 & Exponent) == Exponent ? 0xFFFF0000u : 0;
    return low | high;
  }

  // 1 for each number of x that is not zero.
  static PK_DEVICE uint32_t nonzero(uint32_t x) {
    return ((x & 0x7FFF) ? One : 0) | ((x & 0x7FFF0000) ? One << 16 : 0);
  }
};

struct Bf16 : Halves<0x3F80, 0x7F80> {
  static PK_DEVICE uint32_t pack(float low, float high) {
    uint32_t x;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
    return x;
  }
  static PK_DEVICE float low(uint32_t x) { return __uint_as_float(x << 16); }
  static PK_DEVICE float high(uint32_t x) { return __uint_as_float(x & 0xFFFF0000u); }

  // d += a b; a is (16, 16), b (16, 8).
  static PK_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

struct F16 : Halves<0x3C00, 0x7C00> {
  static PK_DEVICE uint32_t pack(float low, float high) {
    uint32_t x;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
    return x;
  }
  static PK_DEVICE float low(uint32_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(static_cast<uint16_t>(x)));
    return y;
  }
  static PK_DEVICE float high(uint32_t x) { return low(x >> 16); }

  static PK_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

// float32, one number in a register. Tensor cores read 11 bits of each; so a number is split into two of these, x =
// high + low + error, |error| <= 2^-23 |x|, and three products are summed (Ootomo and Yokota 2022, arXiv:2203.03341,
// section 3); the fourth, low low, is at most 2^-22 of the first.
struct F32 {
  static constexpr int halves = 2, columns = 8;
  static constexpr uint32_t ones = 0x3F800000;

  static PK_DEVICE uint32_t unclean(uint32_t x) { return (x & 0x7F800000) == 0x7F800000 ? ~0u : 0; }
  static PK_DEVICE uint32_t nonzero(uint32_t x) { return (x & 0x7FFFFFFF) ? ones : 0; }

  static PK_DEVICE uint32_t rounded(float x) {
    uint32_t y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
  }

  // d += a b; a is (16, 8), b (8, 8).
  static PK_DEVICE void multiply_once(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }

  static PK_DEVICE void split(uint32_t x, uint32_t& high, uint32_t& low) {
    high = rounded(__uint_as_float(x));
    low = rounded(__uint_as_float(x) - __uint_as_float(high));
  }

  static PK_DEVICE void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    uint32_t high[4], low[4], high0, low0, high1, low1;
#pragma unroll
    for (int i = 0; i < 4; ++i) split(a[i], high[i], low[i]);
    split(b0, high0, low0);
    split(b1, high1, low1);
    multiply_once(d, low, high0, high1);
    multiply_once(d, high, low0, low1);
    multiply_once(d, high, high0, high1);
  }
};

PK_DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

PK_DEVICE float log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

PK_DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Four matrices of 8 x 8 numbers; lane 8n + r holds the address of row r of matrix n.
PK_DEVICE void load_matrices(uint32_t (&x)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}

// The same, each matrix transposed.
PK_DEVICE void load_transposed(uint32_t (&x)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}

// Starts to copy `bytes` of 16; the rest is filled with zeros.
PK_DEVICE void copy_async(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// The same of 4 bytes, or none.
PK_DEVICE void copy_number(uint32_t to, const float* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(there ? 4 : 0) : "memory");
}

PK_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the latest `Pending` groups of copies have arrived.
template <int Pending>
PK_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

PK_DEVICE void store_shared(uint32_t to, const uint4& x) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
PK_DEVICE void store_shared(uint32_t to, uint32_t x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}
PK_DEVICE uint4 load_shared(uint32_t from) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(from)
               : "memory");
  return x;
}

PK_DEVICE uint32_t load_word(uint32_t from) {
  uint32_t x;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(from) : "memory");
  return x;
}

PK_DEVICE uint2 load_two_words(uint32_t from) {
  uint2 x;
  asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(from) : "memory");
  return x;
}

PK_DEVICE float load_one(uint32_t from) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(from) : "memory");
  return x;
}

PK_DEVICE float2 load_two(uint32_t from) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(from) : "memory");
  return x;
}

}  // namespace cuda
}  // namespace pkernels
