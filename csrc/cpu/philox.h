// Philox4x32 with 7 rounds, one call per query lane and 8 neighbouring keys; the same bits
// as pkernels/reference/philox.py, which states the layout and the source.
#pragma once

#include "simd.h"

namespace pkernels {
namespace PK_ISA {

struct Philox {
  uint64_t seed;
  uint32_t head, batch;

  // The four words of W queries and the 8 keys of `group`.
  PK_INLINE void draw(const Philox& self, UInt query, uint32_t group, UInt words[4]) {
    UInt c0 = query, c1 = group - UInt{}, c2 = self.head - UInt{}, c3 = self.batch - UInt{};
    uint32_t k0 = (uint32_t)self.seed, k1 = (uint32_t)(self.seed >> 32);
    for (int round = 0; round < 7; ++round) {
      UInt high0, low0, high1, low1;
      multiply(c0, 0xD2511F53u, high0, low0);
      multiply(c2, 0xCD9E8D57u, high1, low1);
      c0 = high1 ^ c1 ^ k0;
      c1 = low1;
      c2 = high0 ^ c3 ^ k1;
      c3 = low0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
  }
};

}  // namespace PK_ISA
}  // namespace pkernels
