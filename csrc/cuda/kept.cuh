// Which pairs a Band keeps, pair by pair: for passes that do not go by its tiles. See listed.cuh for Blocks.
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

  // A weight, as often as its pair is kept.
  PK_DEVICE float weigh(float weight, int i, int j) const { return (*this)(i, j) ? weight : 0.0f; }

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

  // Of keys [from, end) the first that queries [i, i + count) may keep, whole tiles of `width` of them.
  PK_DEVICE Range run(int i, int count, int64_t from, int64_t end, int width) const {
    const Range seen = keys_of(i, count);
    const int64_t first = larger(from, seen.first / width * width), last = smaller(end, seen.first + seen.count);
    return {first, seen.first < last ? larger(0, last - first) : 0};
  }

  // Whether any of the queries i, i + step, ..., `count` of them, keeps a key that lies t, t + step, ..., of which
  // there are `width`, behind it; step: the dilation.
  PK_DEVICE bool meets(int t, int width, int i, int count, int step) const {
    const bool banded = t - shift <= high && t + (width - 1) * step - shift >= low;
    return (banded && (step == 1 || (t - shift) % step == 0)) || i + t < columns || sees_all(i, count * step);
  }

  static PK_DEVICE Kept of(const Backward& f, const Place& x) {
    const Band& band = f.call.problem.band;
    auto clamp = [](int64_t x) { return static_cast<int>(larger(-everywhere, smaller(x, everywhere))); };
    return {clamp(-band.left * band.dilation),
            clamp(band.right * band.dilation),
            static_cast<int>(x.keys.count - x.queries.count),
            clamp(columns_of(f.call, x.sequence)),
            clamp(band.rows),
            clamp(band.dilation),
            static_cast<int>(x.queries.count),
            static_cast<int>(x.keys.count)};
  }
};

}  // namespace cuda
}  // namespace pkernels
