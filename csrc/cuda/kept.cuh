// Which pairs a Band keeps, pair by pair: for passes that do not go by its tiles.
#pragma once

#include "place.cuh"

namespace pkernels {
namespace cuda {

struct Kept {
  int low, high, shift, columns, rows, dilation, n_q, n_k;

  PK_DEVICE bool operator()(int i, int j) const {
    const int at = i + shift, apart = j - at;
    if (i < 0 || j < 0 || i >= n_q || j >= n_k) return false;
    const bool banded = apart >= low && apart <= high && (dilation == 1 || apart % dilation == 0);
    return banded || j < columns || (at >= 0 && at < rows);
  }

  // Whether any of the queries from i on, `count` of them, sees everything.
  PK_DEVICE bool sees_all(int i, int count) const { return i + shift < rows && i + count - 1 + shift >= 0; }

  // The first of the keys that queries [i, i + count) keep, and the one behind the last, as far as a range says.
  PK_DEVICE Range keys_of(int i, int count) const {
    if (sees_all(i, count)) return {0, n_k};
    int64_t first = larger(0, static_cast<int64_t>(i) + shift + low);
    int64_t end = smaller(n_k, static_cast<int64_t>(i) + count + shift + high);
    if (columns > 0) first = 0, end = larger(end, smaller(columns, n_k));
    return {first, larger(0, end - first)};
  }

  // Whether any of the queries i, i + step, ..., `count` of them, keeps a key that lies t, t + step, ..., of which
  // there are `width`, behind it; step: the dilation.
  PK_DEVICE bool meets(int t, int width, int i, int count, int step) const {
    const bool banded = t - shift <= high && t + (width - 1) * step - shift >= low;
    return (banded && (step == 1 || (t - shift) % step == 0)) || i + t < columns || sees_all(i, count * step);
  }
};

PK_DEVICE Kept kept_of(const Call& c, int64_t sequence, const Range& queries, const Range& keys) {
  const Band& band = c.problem.band;
  auto clamp = [](int64_t x) { return static_cast<int>(larger(-everywhere, smaller(x, everywhere))); };
  return {clamp(-band.left * band.dilation),
          clamp(band.right * band.dilation),
          static_cast<int>(keys.count - queries.count),
          clamp(columns_of(c, sequence)),
          clamp(band.rows),
          clamp(band.dilation),
          static_cast<int>(queries.count),
          static_cast<int>(keys.count)};
}

}  // namespace cuda
}  // namespace pkernels
