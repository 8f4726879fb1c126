// Rows that will be read soon, asked for while others are worked on: a tenth of the time of a short call
// after other work, or of a window.
#pragma once

#include "kernels.h"
#include "step.h"

namespace pkernels {
namespace PK_ISA {

// Some keys of a segment: [m, m + count).
struct KeyTileAt {
  KeySegment segment;
  int64_t m, count;
};

class Ahead {
 public:
  // Rows first, first + step, ... of x.
  void add(const Rows& x, Type type, int64_t batch, int64_t head, int64_t first, int64_t step, int64_t rows,
           int64_t width) {
    if (rows <= 0) return;
    const int64_t size = bytes_of(type), bytes = width * size;
    Region region{row_at(x, type, batch, head, first), x.row * step * size, bytes, rows};
    if (region.step == bytes) region.bytes *= rows, region.rows = 1;
    lines_ += region.rows * ceil_div(region.bytes, line);
    regions_[count_++] = region;
  }

  // Keys and values of a tile. Those of a list lie anywhere, and are copied when their turn comes.
  void add(const Forward& f, int64_t batch, int64_t kv_head, const KeyTileAt& keys) {
    const Problem& p = f.problem;
    const KeySegment& segment = keys.segment;
    if (segment.list) return;
    const int64_t b = p.storage(batch), first = p.keys[batch].first + segment.first + keys.m * segment.step;
    add(f.k, p.type, b, kv_head, first, segment.step, keys.count, p.d);
    add(f.v, p.type, b, kv_head, first, segment.step, keys.count, p.dv);
  }

  // The first rows of an item.
  void add(const Forward& f, const Item& item) {
    const Problem& p = f.problem;
    const QueryTile& tile = item.queries;
    if (tile.list) return;
    add(f.q, p.type, p.storage(item.batch), item.head, p.queries[item.batch].first + tile.first, tile.step, tile.count,
        p.d);
    bool first = true;
    for_each_segment(p, item.batch, item.head, tile, [&](const KeySegment& segment) {
      if (first) add(f, item.batch, item.head / p.group(), {segment, 0, smaller(max_keys, segment.count)});
      first = false;
    });
  }

  // All of it in about so many calls of `fetch`: at once, they would wait for each other.
  void spread(int64_t calls) { each_ = ceil_div(lines_, larger(1, calls)); }

  void fetch() {
    for (int64_t n = each_; n > 0 && at_ < count_; --n) {
      Region& region = regions_[at_];
      __builtin_prefetch(region.data + done_, 0, 2);
      done_ += line;
      if (done_ < region.bytes) continue;
      done_ = 0, region.data += region.step;
      if (--region.rows == 0) ++at_;
    }
  }

 private:
  static constexpr int64_t line = 64;
  struct Region {
    const char* data;
    int64_t step, bytes, rows;  // from row to row, of a row
  };
  Region regions_[3];
  int64_t count_ = 0, at_ = 0, done_ = 0, lines_ = 0, each_ = 0;
};

}  // namespace PK_ISA
}  // namespace pkernels
