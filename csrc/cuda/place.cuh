// Where a CTA works, and which tiles of the other side it visits: csrc/band.h in 32 bits.
#pragma once

#include <type_traits>

#include "../band.h"
#include "arguments.h"
#include "instructions.cuh"

namespace pkernels {
namespace cuda {

constexpr int everywhere = 1 << 30;

// Rows [first, first + count) of a tensor.
struct Range {
  int64_t first, count;
};

// The rows of a sequence; whatever spans say, inside the tensor.
PK_DEVICE Range span(const int32_t* spans, int64_t sequence, int64_t rows) {
  if (!spans) return {0, rows};
  const int64_t first = smaller(larger(spans[2 * sequence], 0), rows);
  return {first, smaller(larger(spans[2 * sequence + 1], 0), rows - first)};
}

// One tile of a sequence and head.
struct Place {
  int64_t sequence, head;
  Range queries, keys;
  QueryTile tile;  // count 0: there is nothing to do
};

PK_DEVICE int64_t columns_of(const Call& c, int64_t sequence) { return c.prefix ? c.prefix[sequence] : c.columns; }

// Grid: sequences (one, if packed) x heads x tiles, the tiles neighbours. tiles(Place) numbers those
// of a sequence.
template <class F>
PK_DEVICE Place place(const Call& c, int64_t heads, F tiles) {
  Place x;
  int64_t index = blockIdx.x % c.tiles;
  const int64_t row = blockIdx.x / c.tiles;
  x.head = row % heads, x.sequence = row / heads;
  for (;; ++x.sequence) {
    if (x.sequence == c.problem.batch) return x.tile.count = 0, x;
    x.queries = span(c.query_spans, x.sequence, c.rows_of_queries);
    x.keys = span(c.key_spans, x.sequence, c.rows_of_keys);
    const auto numbered = tiles(x);
    const int64_t count = c.problem.packed ? numbered.count() : index + 1;
    if (index < count) return x.tile = numbered[index], x;
    index -= count;
  }
}

// A segment of the other side's rows, first, first + step, ...; row c of the tile keeps row m of it
// iff c + low <= m <= c + high and skip <= m < count.
struct Segment {
  int first, step, count, skip, low, high;
  float added;  // to every score, in units of log 2
};

struct Bounds {
  int low, high;
};

// Rows of a segment that row c of the tile keeps, both ends included.
PK_DEVICE Bounds kept(const Segment& x, int c) { return {max(c + x.low, x.skip), min(c + x.high, x.count - 1)}; }

// Whether rows [m, m + size) of a segment are kept by all `rows` of the tile.
PK_DEVICE bool is_full(const Segment& x, int rows, int m, int size) {
  return m >= max(rows - 1 + x.low, x.skip) && m + size - 1 <= min(x.high, x.count - 1);
}

PK_DEVICE Segment segment_of(const KeySegment& x, int64_t left, int64_t right) {
  const int first = static_cast<int>(x.first), step = static_cast<int>(x.step);
  const int skip = step == 1 ? first % 8 : 0;  // dropout draws for 8 keys at a time
  Segment s{first - skip, step, static_cast<int>(x.count) + skip, skip, -everywhere, everywhere};
  if (x.banded) s.low = static_cast<int>(skip - left - x.offset), s.high = static_cast<int>(skip + right - x.offset);
  return s;
}

// The tiles that a tile visits, one segment after the other. In shared memory: registers are few.
struct Visits {
  int ends[3];  // tiles up to the end of each segment
  Segment segments[3];

  PK_DEVICE int count() const { return ends[2]; }
  PK_DEVICE int count_of(int heads) const { return count() * heads; }

  // Of several heads that visit alike, one after another: the head of visit t, which becomes one of that head.
  PK_DEVICE int head_of(int& t, int) const {
    const int head = t / count();
    t -= head * count();
    return head;
  }

  // Which segment tile t lies in, and its first row there.
  PK_DEVICE int find(int t, int size, int& m, int = 0) const {
    const int i = (t >= ends[0]) + (t >= ends[1]);
    m = (t - (i ? ends[i - 1] : 0)) * size;
    return i;
  }
  PK_DEVICE const Segment& segment(int i) const { return segments[i]; }
  PK_DEVICE const Segment& at(int t, int size, int& m, int = 0) const { return segments[find(t, size, m)]; }
};

// An end of the tiles of a segment, behind others that end at `before`.
PK_DEVICE int tiles_end(const Segment& x, int before, int size) {
  return before + (x.count > x.skip ? (x.count + size - 1) / size : 0);
}

PK_DEVICE void set_visited_keys(Visits& v, const Call& c, const Place& x, int size) {
  const Band& band = c.problem.band;
  const int64_t columns = columns_of(c, x.sequence), n_q = x.queries.count, n_k = x.keys.count;
  v.segments[0] = segment_of(leading_keys(columns, n_k, x.tile), band.left, band.right);
  v.segments[1] = segment_of(keys_within_reach(band, columns, n_q, n_k, x.tile), band.left, band.right);
  v.ends[0] = tiles_end(v.segments[0], 0, size);
  v.ends[1] = v.ends[2] = tiles_end(v.segments[1], v.ends[0], size);
}

PK_DEVICE void set_visiting_queries(Visits& v, const Call& c, const Place& x, int size) {
  const Band& band = c.problem.band;
  const int64_t n_q = x.queries.count, n_k = x.keys.count;
  KeyRange wide = global_rows(band, n_q, n_k);
  if (x.tile.everything) wide = {0, n_q};
  const KeySegment found[3] = {{wide.begin, 1, wide.end - wide.begin, 0, false},
                               queries_within_reach(band, n_q, n_k, x.tile, 0, wide.begin),
                               queries_within_reach(band, n_q, n_k, x.tile, wide.end, n_q)};
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    v.segments[i] = segment_of(found[i], band.right, band.left);
    v.ends[i] = tiles_end(v.segments[i], i ? v.ends[i - 1] : 0, size);
  }
}

// The same with the rows of all tiles as far apart as those of the own one: of the first segment, which has neighbours,
// one class is visited after another.
struct ClassVisits : Visits {
  int per, longer;  // tiles of a class; how many classes have one row more than the others

  PK_DEVICE void split(int step, int size) {
    Segment& wide = segments[0];
    per = ends[0], longer = 0;
    if (step == 1 || ends[0] == 0) return;
    const int rows = wide.count - wide.skip;
    wide.first += wide.skip, wide.skip = 0, wide.step = step, wide.count = rows / step, longer = rows % step;
    per = (wide.count + (longer > 0) + size - 1) / size;
    const int more = min(step, rows) * per - ends[0];
    for (int i = 0; i < 3; ++i) ends[i] += more;
  }

  // Of the first segment the class too, counted from 3.
  PK_DEVICE int find(int t, int size, int& m, int = 0) const {
    const int i = Visits::find(t, size, m);
    if (i > 0) return i;
    const int of = t / per;
    m -= of * per * size;
    return 3 + of;
  }
  PK_DEVICE Segment segment(int i) const {
    Segment x = segments[i < 3 ? i : 0];
    if (i >= 3) x.first += i - 3, x.count += i - 3 < longer;
    return x;
  }
  PK_DEVICE Segment at(int t, int size, int& m, int = 0) const { return segment(find(t, size, m)); }
};

// A shape of patterns, as the passes ask for it: which tiles there are, and what they visit.
struct OverBand {
  using Visits = cuda::Visits;
  static constexpr int rows = 128;  // of a tile of the forward
  static constexpr bool counts = false;

  static PK_DEVICE Place place_queries(const Call& c, int size, int64_t parts = 1) {
    return place(c, c.problem.heads * parts, [&](const Place& at) {
      return numbered_query_tiles(c.problem.band, at.queries.count, at.keys.count, size);
    });
  }
  static PK_DEVICE Place place_keys(const Call& c, int size) {
    return place(c, c.problem.kv_heads, [&](const Place& at) {
      return numbered_key_tiles(c.problem.band, columns_of(c, at.sequence), at.keys.count, size);
    });
  }
  static PK_DEVICE void visit_keys(Visits& v, const Call& c, const Place& x, int size) {
    set_visited_keys(v, c, x, size);
  }
  static PK_DEVICE void visit_queries(Visits& v, const Call& c, const Place& x, int size) {
    set_visiting_queries(v, c, x, size);
  }
};

struct OverClasses : OverBand {
  using Visits = ClassVisits;

  static PK_DEVICE void visit_keys(Visits& v, const Call& c, const Place& x, int size) {
    set_visited_keys(v, c, x, size), v.split(static_cast<int>(x.tile.step), size);
  }
  static PK_DEVICE void visit_queries(Visits& v, const Call& c, const Place& x, int size) {
    set_visiting_queries(v, c, x, size), v.split(static_cast<int>(x.tile.step), size);
  }
};

// A Relative asks of all tiles that their rows step alike.
template <Bias B>
using OverBandOf = std::conditional_t<B == Bias::relative, OverClasses, OverBand>;

}  // namespace cuda
}  // namespace pkernels
