// LSH hashes (Kitaev et al. 2020, arXiv:2001.04451, section 2): argmax([x R; -x R]), rows in the
// lanes, so that the largest of a row's products is found lane by lane.
#pragma once

#include "kernels.h"
#include "product.h"
#include "rows.h"

namespace pkernels {
namespace PK_ISA {

constexpr int64_t hash_lanes = PK_PANEL;

static int64_t hash_scratch(const Hash& f) {
  int64_t most = 0;
  for (int64_t i = 0; i < f.factors; ++i) most = larger(most, f.buckets[i] / 2);
  return (f.d + most + 1) * hash_lanes;
}

// Raises `best` to `value` where that is more, and notes its index.
PK_INLINE void challenge(Vec value, int32_t index, Vec& best, Int& winner) {
  const Int wins = value > best;
  best = select(wins, value, best);
  winner = (wins & isplat(index)) | (~wins & winner);
}

// The hashes of all rows of a head in one round.
static void hash(const Hash& f, int64_t batch, int64_t head, int64_t round, int32_t* to, float* memory) {
  float *xt = memory, *products = memory + f.d * hash_lanes;
  int64_t half = 0;
  for (int64_t i = 0; i < f.factors; ++i) half += f.buckets[i] / 2;
  for (int64_t first = 0; first < f.rows; first += hash_lanes) {
    const int64_t count = smaller(hash_lanes, f.rows - first), used = (count + W - 1) / W * W;
    read_transposed(xt, hash_lanes, used, row_at(f.x, f.type, batch, head, first), f.type, f.x.row, count, f.d);
    int32_t found[hash_lanes] = {}, unit = 1;
    const float* rotations = f.rotations + (head * f.d * f.rounds + round) * half;
    for (int64_t i = 0; i < f.factors; ++i) {
      const int64_t n = f.buckets[i] / 2;
      product<Floats, Transposed, Assign>(n, used, f.d, rotations, f.rounds * half, xt, hash_lanes, products,
                                          hash_lanes);
      for (int64_t g = 0; g < used; g += W) {
        Vec best = splat(-infinity);
        Int winner = {};
        for (int64_t e = 0; e < n; ++e) challenge(load(products + e * hash_lanes + g), (int32_t)e, best, winner);
        for (int64_t e = 0; e < n; ++e) challenge(-load(products + e * hash_lanes + g), (int32_t)(n + e), best, winner);
        for (int64_t c = 0; c < W; ++c) found[g + c] += unit * winner[c];
      }
      rotations += n, unit *= (int32_t)f.buckets[i];
    }
    for (int64_t c = 0; c < count; ++c) to[first + c] = found[c];
  }
}

}  // namespace PK_ISA
}  // namespace pkernels
