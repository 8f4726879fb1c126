// Attention dropout: the bits of pkernels/reference/philox.py, which states the layout and the
// source. A call of Philox4x32-7 serves one query and 8 neighbouring keys.
#pragma once

#include "scores.cuh"

namespace pkernels {
namespace cuda {

struct Dropout {
  uint32_t key0, key1, head, sequence, threshold;
  float scale;  // of those that stay

  // Bit k: whether the pair of `query` and key 8 group + k stays.
  PK_DEVICE uint32_t draw(uint32_t query, uint32_t group) const {
    uint32_t c0 = query, c1 = group, c2 = head, c3 = sequence, k0 = key0, k1 = key1;
#pragma unroll
    for (int round = 0; round < 7; ++round) {
      const uint64_t x = static_cast<uint64_t>(c0) * 0xD2511F53u, y = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
      c0 = static_cast<uint32_t>(y >> 32) ^ c1 ^ k0, c1 = static_cast<uint32_t>(y);
      c2 = static_cast<uint32_t>(x >> 32) ^ c3 ^ k1, c3 = static_cast<uint32_t>(x);
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const uint32_t words[4] = {c0, c1, c2, c3};
    uint32_t bits = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) bits |= ((words[k / 2] >> k % 2 * 16 & 0xFFFF) >= threshold ? 1u : 0u) << k;
    return bits;
  }
};

PK_DEVICE Dropout dropout_of(const Call& c, int64_t head, int64_t sequence) {
  const uint64_t seed = c.problem.threshold ? static_cast<uint64_t>(*c.seed) : 0;
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
          static_cast<uint32_t>(head), static_cast<uint32_t>(sequence),
          c.problem.threshold,         c.problem.keep_scale};
}

// Every pair stays: work that is given this constant has no branch in it.
PK_DEVICE Dropout no_dropout() { return {0, 0, 0, 0, 0, 1}; }

// Which of the lane's pairs stay, in one block of rows: bit 4 n + e. Where keys are neighbours, a
// lane draws for one row of the block (or query, if keys own the rows) and 8 keys, and 32 lanes
// exchange what they drew; else each draws for itself.
template <bool OwnKeys, int Columns>
PK_DEVICE uint32_t survivors(const Dropout& dropout, const Pairs<OwnKeys>& pairs, int row, int block, int m) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  uint32_t stay = 0;
  const bool neighbours = OwnKeys ? pairs.own_step == 1 && pairs.own_first % 8 == 0 : pairs.step == 1;
  if (neighbours) {
#pragma unroll 1
    for (int n = 0; n < Columns / 8; n += 2) {
      uint32_t drawn;
      if (OwnKeys) {  // lane 16 i + 8 half + q: query 8 (n + i) + q, keys 8 half + 0..7
        const int q = m + (n + lane / 16) * 8 + lane % 8;
        drawn = dropout.draw(pairs.other(q), pairs.own(row + block * 16 + lane / 8 % 2 * 8) / 8);
      } else {  // lane 16 i + r: row r, keys 8 (n + i) + 0..7
        drawn = dropout.draw(pairs.own(row + block * 16 + lane % 16), pairs.other(m + (n + lane / 16) * 8) / 8);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (!OwnKeys && e % 2) continue;
          const int from = OwnKeys ? 16 * i + e / 2 * 8 + 2 * t + e % 2 : 16 * i + e / 2 * 8 + g;
          const uint32_t bits = __shfl_sync(~0u, drawn, from);
          const uint32_t two = OwnKeys ? bits >> g & 1 : bits >> 2 * t & 3;
          stay |= two << (4 * (n + i) + e);
        }
      }
    }
    return stay;
  }
#pragma unroll 1
  for (int at = 0; at < Columns / 2; ++at) {
    const int c = row_of(row, block, at % 4), o = m + column_of(at / 4, at % 4);
    const int key = pairs.key(c, o);
    stay |= (dropout.draw(pairs.query(c, o), key / 8) >> key % 8 & 1) << at;
  }
  return stay;
}

// Zero to the weights that dropout removes.
template <int Blocks, int Columns, bool OwnKeys>
PK_DEVICE void drop(Fragments<Blocks, Columns>& weights, const Dropout& dropout, const Pairs<OwnKeys>& pairs, int row,
                    int m) {
#pragma unroll
  for (int b = 0; b < Blocks; ++b) {
    const uint32_t stay = survivors<OwnKeys, Columns>(dropout, pairs, row, b, m);
#pragma unroll
    for (int n = 0; n < Columns / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) weights[b][n][e] = stay >> (4 * n + e) & 1 ? weights[b][n][e] : 0.0f;
    }
  }
}

}  // namespace cuda
}  // namespace pkernels
