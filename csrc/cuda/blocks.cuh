// Blocks (Zaheer et al. 2020, BigBird, arXiv:2007.14062, appendix D): the passes over a Band with
// other tiles. A tile lies within a block and visits the blocks of its list, so that nothing is
// masked but the end of the last one; a block listed n times adds log n to its scores.
#pragma once

#include "scores.cuh"

namespace pkernels {
namespace cuda {

// Tiles of at most `own` rows, none across two blocks.
struct BlockTiles {
  int64_t rows, size, own;

  PK_DEVICE int64_t count() const { return ceil_div(rows, size) * ceil_div(size, own); }

  PK_DEVICE QueryTile operator[](int64_t index) const {
    const int64_t per = ceil_div(size, own), block = index / per, first = block * size + index % per * own;
    return {first, 1, larger(0, smaller(own, smaller((block + 1) * size, rows) - first))};
  }
};

// The blocks that lists name, one head after another.
struct BlockVisits {
  const int32_t *offsets, *columns, *counts;  // offsets: of the tile's block and the first head
  int64_t step, size, rows;                   // from one head's offsets to the next one's; of a block, and in all
  int begin, entries, tiles;                  // of the first head; tiles of a block

  PK_DEVICE int count() const { return entries * tiles; }

  PK_DEVICE int count_of(int heads) const {
    if (step == 0) return count() * heads;
    int entries = 0;
    for (int h = 0; h < heads; ++h) entries += offsets[h * step + 1] - offsets[h * step];
    return entries * tiles;
  }

  // The head of visit t, which becomes one of that head.
  PK_DEVICE int head_of(int& t, int heads) const {
    int head = 0;
    if (step == 0) {
      head = t / count(), t -= head * count();
    } else {
      for (; head < heads - 1; ++head) {
        const int of_head = (offsets[head * step + 1] - offsets[head * step]) * tiles;
        if (t < of_head) break;
        t -= of_head;
      }
    }
    return head;
  }

  // The entry of a list that visit t of a head belongs to, and its first row there.
  PK_DEVICE int find(int t, int width, int& m, int head = 0) const {
    m = t % tiles * width;
    return (head && step ? offsets[head * step] : begin) + t / tiles;
  }

  PK_DEVICE Segment segment(int entry) const {
    const int times = counts[entry];
    const int64_t first = columns[entry] * size;
    Segment s = segment_of({first, 1, smaller(size, rows - first), 0, false}, 0, 0);
    s.added = times == 1 ? 0.0f : log2(static_cast<float>(times));
    return s;
  }

  PK_DEVICE Segment at(int t, int width, int& m, int head = 0) const { return segment(find(t, width, m, head)); }
};

struct OverBlocks {
  using Visits = BlockVisits;
  static constexpr int rows = 64;  // of a tile of the forward: published models have blocks of 64
  static constexpr bool counts = true;

  static PK_DEVICE Place place_queries(const Call& c, int own, int64_t = 1) {
    return place(c, c.problem.heads,
                 [&](const Place& at) { return BlockTiles{at.queries.count, c.problem.blocks.size, own}; });
  }
  static PK_DEVICE Place place_keys(const Call& c, int own) {
    return place(c, c.problem.kv_heads,
                 [&](const Place& at) { return BlockTiles{at.keys.count, c.problem.blocks.size, own}; });
  }
  static PK_DEVICE void visit_keys(Visits& v, const Call& c, const Place& x, int width) {
    visit(v, c, x.tile, x.head, x.keys.count, width);
  }
  static PK_DEVICE void visit_queries(Visits& v, const Call& c, const Place& x, int width) {
    visit(v, c, x.tile, x.head * c.problem.group(), x.queries.count, width);
  }

  static PK_DEVICE void visit(Visits& v, const Call& c, const QueryTile& tile, int64_t head, int64_t rows, int width) {
    const Blocks& blocks = c.problem.blocks;
    v.step = blocks.lists == 1 ? 0 : blocks.rows + 1;
    v.offsets = blocks.offsets + head * v.step + tile.first / blocks.size;
    v.columns = blocks.columns, v.counts = c.counts;
    v.size = blocks.size, v.rows = rows;
    v.begin = v.offsets[0], v.entries = v.offsets[1] - v.begin;
    const int64_t skipped = blocks.size % 8 ? 7 : 0;  // at most; see segment_of
    v.tiles = static_cast<int>(ceil_div(blocks.size + skipped, width));
  }
};

}  // namespace cuda
}  // namespace pkernels

// The kernels blocks_<pass>: those of a pass over a Band.
#define PK_OVER_BLOCKS(pass, Arguments, Shape, Over, biases, others) \
  namespace pkernels {                                               \
  namespace cuda {                                                   \
  template <class T, int D, Bias B>                                  \
  PK_DEVICE void blocks_##pass(const Arguments& f) {                 \
    pass<T, D, B, Over>(f);                                          \
  }                                                                  \
  }                                                                  \
  }                                                                  \
  PK_ALL_KERNELS(blocks_##pass, Arguments, Shape, biases, others)
