// Numbered tiles and what they visit (csrc/band.h), as the GPU kernels use them, against the
// definition of a Band: every row in one tile, every kept pair met once, from both sides.
#include <cstdio>
#include <vector>

#include "band.h"

using namespace pkernels;

namespace {

struct Shape {
  Band band;
  int64_t columns, n_q, n_k, size;
};

bool keeps(const Shape& s, int64_t i, int64_t j) {
  const int64_t at = i + s.n_k - s.n_q, step = j - at, d = s.band.dilation;
  const bool near = modulo(step, d) == 0 && step >= -s.band.left * d && step <= s.band.right * d;
  return near || j < s.columns || (at >= 0 && at < s.band.rows);
}

// Adds 1 to met[own * others + other] for each pair that a tile keeps of a segment, its mask in
// the words of a KeySegment. False if a row lies outside.
bool visit(std::vector<int>& met, const QueryTile& tile, const KeySegment& segment, int64_t left, int64_t right,
           int64_t others) {
  for (int64_t m = 0; m < segment.count; ++m) {
    const int64_t other = segment.first + m * segment.step;
    if (other < 0 || other >= others) return false;
    for (int64_t c = 0; c < tile.count; ++c) {
      const int64_t apart = m - c + segment.offset;
      met[(tile.first + c * tile.step) * others + other] += !segment.banded || (apart >= -left && apart <= right);
    }
  }
  return true;
}

bool passes(const Shape& s, bool of_keys) {
  const Band& band = s.band;
  const int64_t rows = of_keys ? s.n_k : s.n_q, others = of_keys ? s.n_q : s.n_k;
  const NumberedTiles tiles =
      of_keys ? numbered_key_tiles(band, s.columns, s.n_k, s.size) : numbered_query_tiles(band, s.n_q, s.n_k, s.size);
  const int64_t count = tiles.count(), wide = of_keys ? s.columns : band.rows;
  if (count > NumberedTiles::most(rows, 1, wide, band.dilation, s.size)) return false;
  if (tiles[count].count != 0 || tiles[count + 5].count != 0) return false;
  std::vector<int> met(rows * others), seen(rows);
  for (int64_t t = 0; t < count; ++t) {
    const QueryTile tile = tiles[t];
    for (int64_t c = 0; c < tile.count; ++c) ++seen[tile.first + c * tile.step];
    if (tile.count == 0) continue;
    bool inside = true;
    if (of_keys) {
      const KeyRange all = global_rows(band, s.n_q, s.n_k);
      const KeyRange global = tile.everything ? KeyRange{0, s.n_q} : all;
      inside &= visit(met, tile, {global.begin, 1, global.end - global.begin, 0, false}, 0, 0, others);
      for (const KeyRange& part : {KeyRange{0, all.begin}, KeyRange{all.end, s.n_q}}) {
        const KeySegment reached = queries_within_reach(band, s.n_q, s.n_k, tile, part.begin, part.end);
        inside &= visit(met, tile, reached, band.right, band.left, others);
      }
    } else {
      inside &= visit(met, tile, leading_keys(s.columns, s.n_k, tile), 0, 0, others);
      inside &= visit(met, tile, keys_within_reach(band, s.columns, s.n_q, s.n_k, tile), band.left, band.right, others);
    }
    if (!inside) return false;
  }
  for (const int times : seen) {
    if (times != 1) return false;
  }
  for (int64_t own = 0; own < rows; ++own) {
    for (int64_t other = 0; other < others; ++other) {
      const bool wanted = of_keys ? keeps(s, other, own) : keeps(s, own, other);
      if (met[own * others + other] != wanted) return false;
    }
  }
  return true;
}

// The tiles of packed sequences are counted together, from nothing but the sum of their rows.
bool bounds_hold(const Band& band, int64_t size) {
  for (int64_t a = 0; a < 9; ++a) {
    for (int64_t b = 0; b < 9; ++b) {
      const int64_t most = NumberedTiles::most(a + b, 2, band.rows, band.dilation, size);
      for (int64_t keys = 0; keys < 12; ++keys) {
        const int64_t found =
            numbered_query_tiles(band, a, keys, size).count() + numbered_query_tiles(band, b, keys, size).count();
        if (found > most) return false;
      }
    }
  }
  return true;
}

}  // namespace

int main() {
  int checked = 0, failed = 0;
  for (int64_t n_q : {0, 1, 7, 16}) {
    for (int64_t n_k : {0, 1, 5, 16, 19}) {
      for (int64_t d : {1, 2, 3, 30}) {
        for (int64_t size : {1, 3, 8}) {
          for (int64_t reach = 0; reach < 6; ++reach) {
            const int64_t left[] = {0, 2, 40, -1, 3, -30}, right[] = {0, 1, 0, 2, -2, 60};
            for (int64_t wide : {0, 1, 4, 50}) {
              for (int64_t columns : {0, 3, 50}) {
                const Shape shape{{left[reach], right[reach], wide, d}, columns, n_q, n_k, size};
                for (const bool of_keys : {false, true}) {
                  ++checked;
                  if (passes(shape, of_keys)) continue;
                  if (++failed < 5) {
                    std::printf(
                        "FAILED: %d x %d, left %d, right %d, rows %d, columns %d, dilation %d, tiles of %d %s\n",
                        (int)n_q, (int)n_k, (int)left[reach], (int)right[reach], (int)wide, (int)columns, (int)d,
                        (int)size, of_keys ? "keys" : "queries");
                  }
                }
                if (!bounds_hold(shape.band, size)) std::printf("FAILED: a bound\n"), ++failed;
              }
            }
          }
        }
      }
    }
  }
  std::printf("%d checked, %d failed\n", checked, failed);
  return failed != 0;
}
