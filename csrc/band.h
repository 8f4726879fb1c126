// Band: which keys a tile of queries visits. Closed form, no lists, no masks.
//
// Query i of n_q stands at position i + n_k - n_q, key j at position j (bottom-right
// alignment). With dilation d, positions fall into d residue classes that never meet, so a
// tile holds queries of one class, d rows apart, and visits keys of that class, d rows apart.
#pragma once

#include "params.h"

namespace pkernels {

// `count` queries: rows first, first + step, ...; or those of a list.
struct QueryTile {
  int64_t first = 0, step = 1, count = 0;
  bool everything = false;  // global rows: every key is kept
  const int32_t* list = nullptr;
};

// `count` keys: rows first, first + step, ...; or those of a list. If banded, query c of the tile
// keeps key m iff -left <= m - c + offset <= right; otherwise it keeps them all.
struct KeySegment {
  int64_t first = 0, step = 1, count = 0, offset = 0;
  bool banded = false;
  float added = 0;  // to every score
  const int32_t* list = nullptr;
};

// Keys [begin, end), of a sequence or of a segment.
struct KeyRange {
  int64_t begin, end;
};

PK_BOTH inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
PK_BOTH inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
PK_BOTH inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
PK_BOTH inline int64_t modulo(int64_t a, int64_t b) { return (a % b + b) % b; }

// Calls f(QueryTile) for tiles of at most `size` queries that cover all rows.
template <class F>
void for_each_query_tile(const Band& band, int64_t n_q, int64_t n_k, int64_t size, F f) {
  const int64_t shift = n_k - n_q;
  const int64_t begin = smaller(n_q, larger(0, -shift));
  const int64_t end = larger(begin, smaller(n_q, band.rows - shift));
  for (int64_t i = begin; i < end; i += size) {
    f(QueryTile{i, 1, smaller(size, end - i), true});
  }
  const int64_t ranges[2][2] = {{0, begin}, {end, n_q}};
  for (const auto& range : ranges) {
    for (int64_t r = 0; r < band.dilation && range[0] + r < range[1]; ++r) {
      const int64_t rows = ceil_div(range[1] - range[0] - r, band.dilation);
      for (int64_t c = 0; c < rows; c += size) {
        f(QueryTile{range[0] + r + c * band.dilation, band.dilation, smaller(size, rows - c), false});
      }
    }
  }
}

// How many rows of a sequence lie in a tile, and how many tiles that makes, when they are counted
// instead of visited one after another: first the rows [begin, end), which see everything, then
// those before and those behind them, class by class.
struct NumberedTiles {
  int64_t rows, begin, end, dilation, size;

  PK_BOTH static int64_t in_classes(int64_t rows, int64_t dilation, int64_t size) {
    return rows <= 0 ? 0 : smaller(dilation, rows) * ceil_div(ceil_div(rows, dilation), size);
  }

  PK_BOTH int64_t count() const {
    return ceil_div(end - begin, size) + in_classes(begin, dilation, size) + in_classes(rows - end, dilation, size);
  }

  // At most so many for `sequences` of `rows` rows together, `wide` of each seeing everything.
  static int64_t most(int64_t rows, int64_t sequences, int64_t wide, int64_t dilation, int64_t size) {
    const int64_t classes = smaller(dilation, larger(1, rows)), spare = classes == 1 ? 1 : 2 * classes;
    const int64_t whole = sequences == 1 ? in_classes(rows, dilation, size) : rows / size + sequences * spare;
    return whole + (wide > 0 ? sequences * (ceil_div(smaller(wide, rows), size) + spare) : 0);
  }

  // Tile `index`, with a count of 0 behind the last one.
  PK_BOTH QueryTile operator[](int64_t index) const {
    const int64_t wide = ceil_div(end - begin, size);
    if (index < wide) return {begin + index * size, 1, smaller(size, end - begin - index * size), true};
    index -= wide;
    const int64_t before = in_classes(begin, dilation, size);
    const int64_t first = index < before ? 0 : end, last = index < before ? begin : rows;
    if (index >= before) index -= before;
    if (index >= in_classes(last - first, dilation, size)) return {0, 1, 0};
    const int64_t classes = smaller(dilation, last - first), r = index % classes, c = index / classes * size;
    return {first + r + c * dilation, dilation, larger(0, smaller(size, ceil_div(last - first - r, dilation) - c))};
  }
};

// The queries that see everything.
PK_BOTH inline KeyRange global_rows(const Band& band, int64_t n_q, int64_t n_k) {
  const int64_t begin = smaller(n_q, larger(0, n_q - n_k)), end = smaller(n_q, band.rows + n_q - n_k);
  return begin < end ? KeyRange{begin, end} : KeyRange{0, 0};
}

// The tiles of queries of a sequence, and those of keys.
PK_BOTH inline NumberedTiles numbered_query_tiles(const Band& band, int64_t n_q, int64_t n_k, int64_t size) {
  const KeyRange wide = global_rows(band, n_q, n_k);
  return {n_q, wide.begin, wide.end, band.dilation, size};
}
PK_BOTH inline NumberedTiles numbered_key_tiles(const Band& band, int64_t columns, int64_t n_k, int64_t size) {
  return {n_k, 0, smaller(columns, n_k), band.dilation, size};
}

// Global columns, of which a tile visits every one; count 0: there are none.
PK_BOTH inline KeySegment leading_keys(int64_t columns, int64_t n_k, const QueryTile& tile) {
  return KeySegment{0, 1, tile.everything ? n_k : smaller(columns, n_k), 0, false};
}

// Of the rows [begin, end) those that `count` rows of the other side, `step` apart from one that
// stands at `low` on, keep if they keep what lies `left` before to `right` behind them.
PK_BOTH inline KeySegment within_reach(int64_t low, int64_t count, int64_t step, int64_t left, int64_t right,
                                       int64_t begin, int64_t end) {
  int64_t first = larger(low - left * step, begin);
  if (step > 1) first += modulo(low - first, step);
  const int64_t last = smaller(low + (count - 1) * step + right * step, end - 1);
  if (first > last) return {};
  if (step == 1) return KeySegment{first, 1, last - first + 1, first - low, true};
  return KeySegment{first, step, (last - first) / step + 1, (first - low) / step, true};
}

// The keys behind global columns within reach of a tile; count 0: there are none.
PK_BOTH inline KeySegment keys_within_reach(const Band& band, int64_t columns, int64_t n_q, int64_t n_k,
                                            const QueryTile& tile) {
  if (tile.everything) return {};
  return within_reach(tile.first + n_k - n_q, tile.count, band.dilation, band.left, band.right, smaller(columns, n_k),
                      n_k);
}

// The other way round: of queries [begin, end) those that a tile of keys is within reach of.
PK_BOTH inline KeySegment queries_within_reach(const Band& band, int64_t n_q, int64_t n_k, const QueryTile& keys,
                                               int64_t begin, int64_t end) {
  if (keys.everything) return {};
  return within_reach(keys.first + n_q - n_k, keys.count, band.dilation, band.right, band.left, begin, end);
}

// The key segments of a tile, at most two, each key once: global columns, then the band. Always inlined: of several
// copies the linker would keep one for all instruction sets, and it might be one for AVX-512.
[[gnu::always_inline]] inline int segments(const Band& band, int64_t columns, int64_t n_q, int64_t n_k,
                                           const QueryTile& tile, KeySegment out[2]) {
  int found = 0;
  const KeySegment both[2] = {leading_keys(columns, n_k, tile), keys_within_reach(band, columns, n_q, n_k, tile)};
  for (const KeySegment& segment : both) {
    if (segment.count > 0) out[found++] = segment;
  }
  return found;
}

// The part of a segment whose rows lie in [begin, end).
PK_BOTH inline KeySegment clip(KeySegment segment, int64_t begin, int64_t end) {
  const int64_t skip = segment.first < begin ? ceil_div(begin - segment.first, segment.step) : 0;
  const int64_t left = ceil_div(larger(0, end - segment.first), segment.step);
  segment.count = larger(0, smaller(segment.count, left) - skip);
  segment.first += skip * segment.step;
  segment.offset += skip;
  return segment;
}

// Whether keys [m, m + count) of a segment are kept by every query of the tile.
PK_BOTH inline bool is_full(const Band& band, const KeySegment& segment, const QueryTile& tile, int64_t m,
                            int64_t count) {
  return !segment.banded ||
         (m - (tile.count - 1) + segment.offset >= -band.left && m + count - 1 + segment.offset <= band.right);
}

}  // namespace pkernels
