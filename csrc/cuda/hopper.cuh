// The instructions of sm_90a that hopper_forward.cuh is made of, under names (PTX ISA, sections 9.7.13.15 "mbarrier",
// 9.7.9.27 "Tensor copy", 9.7.15 "wgmma", 9.7.19.5 "setmaxnreg").
#pragma once

#include "boxes.h"
#include "tile.cuh"

namespace pkernels {
namespace cuda {

// Barriers in shared memory. A phase is complete when all have arrived that were named at first, and as many bytes as
// were expected; phases are told apart by their parity, the first one is 0.

PK_DEVICE void make_barrier(uint32_t at, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}

PK_DEVICE void arrive(uint32_t at) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory"); }

// Arrives, and `bytes` are to come.
PK_DEVICE void arrive_expecting(uint32_t at, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}

PK_DEVICE void wait_for_phase(uint32_t at, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred complete;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 complete, [%0], %1;\n"
      "@complete bra done;\n"
      "bra again;\n"
      "done:\n"
      "}" ::"r"(at),
      "r"(parity)
      : "memory");
}

// Barriers of the CTA by number, of which __syncthreads has 0. Some threads wait until `threads` have come, others only
// say that they have.
PK_DEVICE void wait_at_barrier(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
PK_DEVICE void arrive_at_barrier(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// What this thread has written to shared memory, or read, comes before what the copy engine and the tensor cores do.
PK_DEVICE void fence_engines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Starts to copy a box, which reports to a barrier.
PK_DEVICE void load_box(uint32_t to, const TensorMap& map, int column, int row, int head, int sequence,
                        uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(head), "r"(sequence), "r"(barrier)
      : "memory");
}

// From here on a thread of this group of four warps has so many registers.
template <int Registers>
PK_DEVICE void shrink() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
PK_DEVICE void grow() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

// An operand of a product in shared memory: rows of 128 bytes whose chunks lie as in a Tile<64>, eight of them behind
// eight; and where rows are its depth, the next 64 columns `leading` bytes on.
PK_DEVICE uint64_t operand_at(uint32_t address, int leading = 16) {
  constexpr uint64_t swizzled = uint64_t{1} << 62, eight_rows = uint64_t{1024 >> 4} << 32;
  return swizzled | eight_rows | static_cast<uint64_t>(leading >> 4) << 16 | (address & 0x3FFFF) >> 4;
}

// Products of a group of four warps, 64 rows: warp w has rows 16 w to 16 w + 15, a lane of it what it has of Fragments.
// They run on by themselves. begin_products comes before the first of several; until they were waited for nobody may
// touch their registers.

PK_DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
PK_DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// What x is made of is worked out before this. The compiler would rather do it behind a wait for products, and so not
// meanwhile; it does not know that no arithmetic ends in these bits.
PK_DEVICE void work_out_now(float x) {
  if (__float_as_uint(x) == ~0u) __nanosleep(0);
}

#define PK_NAMES_32                                         \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"
#define PK_NAMES_64                                                  \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"          \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"
#define PK_HELD_32(how, d)                                                                                        \
  how(d[0]), how(d[1]), how(d[2]), how(d[3]), how(d[4]), how(d[5]), how(d[6]), how(d[7]), how(d[8]), how(d[9]),   \
      how(d[10]), how(d[11]), how(d[12]), how(d[13]), how(d[14]), how(d[15]), how(d[16]), how(d[17]), how(d[18]), \
      how(d[19]), how(d[20]), how(d[21]), how(d[22]), how(d[23]), how(d[24]), how(d[25]), how(d[26]), how(d[27]), \
      how(d[28]), how(d[29]), how(d[30]), how(d[31])
#define PK_HELD_64(how, d)                                                                                        \
  how(d[0]), how(d[1]), how(d[2]), how(d[3]), how(d[4]), how(d[5]), how(d[6]), how(d[7]), how(d[8]), how(d[9]),   \
      how(d[10]), how(d[11]), how(d[12]), how(d[13]), how(d[14]), how(d[15]), how(d[16]), how(d[17]), how(d[18]), \
      how(d[19]), how(d[20]), how(d[21]), how(d[22]), how(d[23]), how(d[24]), how(d[25]), how(d[26]), how(d[27]), \
      how(d[28]), how(d[29]), how(d[30]), how(d[31]), how(d[32]), how(d[33]), how(d[34]), how(d[35]), how(d[36]), \
      how(d[37]), how(d[38]), how(d[39]), how(d[40]), how(d[41]), how(d[42]), how(d[43]), how(d[44]), how(d[45]), \
      how(d[46]), how(d[47]), how(d[48]), how(d[49]), how(d[50]), how(d[51]), how(d[52]), how(d[53]), how(d[54]), \
      how(d[55]), how(d[56]), how(d[57]), how(d[58]), how(d[59]), how(d[60]), how(d[61]), how(d[62]), how(d[63])

// Waits until all but the latest `Pending` commits are complete, after which d may be read.
template <int Pending>
PK_DEVICE void wait_for_products(float (&d)[32]) {
  asm volatile("wgmma.wait_group.sync.aligned %32;" : PK_HELD_32("+f", d) : "n"(Pending) : "memory");
}
template <int Pending>
PK_DEVICE void wait_for_products(float (&d)[64]) {
  asm volatile("wgmma.wait_group.sync.aligned %64;" : PK_HELD_64("+f", d) : "n"(Pending) : "memory");
}

template <class T>
struct GroupProducts;

#define PK_GROUP_PRODUCTS(T, type)                                                                                     \
  template <>                                                                                                          \
  struct GroupProducts<T> {                                                                                            \
    /* d = a bT and d += a bT; a is (64, 16), b (128, 16). */                                                          \
    static PK_DEVICE void multiply(float (&d)[64], uint64_t a, uint64_t b) {                                           \
      asm volatile(                                                                                                    \
          "{.reg .pred no;\nsetp.ne.b32 no, 0, 0;\n"                                                                   \
          "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " PK_NAMES_64 ", %64, %65, no, 1, 1, 0, 0;}"  \
          : PK_HELD_64("=f", d)                                                                                        \
          : "l"(a), "l"(b));                                                                                           \
    }                                                                                                                  \
    static PK_DEVICE void multiply_add(float (&d)[64], uint64_t a, uint64_t b) {                                       \
      asm volatile(                                                                                                    \
          "{.reg .pred yes;\nsetp.eq.b32 yes, 0, 0;\n"                                                                 \
          "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " PK_NAMES_64 ", %64, %65, yes, 1, 1, 0, 0;}" \
          : PK_HELD_64("+f", d)                                                                                        \
          : "l"(a), "l"(b));                                                                                           \
    }                                                                                                                  \
    /* d += a b; a is (64, 16), b (16, 64) or (16, 128), its rows those in shared memory. */                           \
    static PK_DEVICE void multiply_add(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {                           \
      asm volatile(                                                                                                    \
          "{.reg .pred yes;\nsetp.eq.b32 yes, 0, 0;\n"                                                                 \
          "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " PK_NAMES_32                                  \
          ", {%32,%33,%34,%35}, %36, yes, 1, 1, 1;}"                                                                   \
          : PK_HELD_32("+f", d)                                                                                        \
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                       \
    }                                                                                                                  \
    static PK_DEVICE void multiply_add(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {                           \
      asm volatile(                                                                                                    \
          "{.reg .pred yes;\nsetp.eq.b32 yes, 0, 0;\n"                                                                 \
          "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " PK_NAMES_64                                 \
          ", {%64,%65,%66,%67}, %68, yes, 1, 1, 1;}"                                                                   \
          : PK_HELD_64("+f", d)                                                                                        \
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                       \
    }                                                                                                                  \
  };

PK_GROUP_PRODUCTS(Bf16, "bf16")
PK_GROUP_PRODUCTS(F16, "f16")

}  // namespace cuda
}  // namespace pkernels
