// Gradients of the biases: sums of dS.
#pragma once

#include "backward_tile.h"

namespace pkernels {
namespace PK_ISA {

// Distance: sums along diagonals, in four buffers so that a store is not read back at once.
static void add_diagonals(const QuerySide& side, const KeySide& tile, const KeySegment& segment, int64_t m,
                          int64_t count, float* to) {
  constexpr int64_t diagonals = max_keys + tile_width;
  BackwardScratch& x = side.x;
  const int64_t lane = tile.lane, used = tile.lanes, queries = smaller(used, side.queries.count - lane);
  const int64_t query = side.queries.first + lane * side.queries.step;
  const int64_t start = segment.first + m * segment.step - query + side.f.problem.zero;
  const float* ds = x.ds + lane;
  if (segment.step != side.queries.step) {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t c = 0; c < queries; ++c) {
        to[start + j * segment.step - c * side.queries.step] += ds[j * side.width + c];
      }
    }
    return;
  }
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t u = 0; u < count - 1 + used; ++u) x.diagonal[i * diagonals + u] = 0;
  }
  for (int64_t j = 0; j < count; ++j) {
    float* line = x.diagonal + (j % 4) * diagonals + count - 1 - j;
    for (int64_t c = 0; c < used; c += W) store(line + c, load(line + c) + load(ds + j * side.width + c));
  }
  for (int64_t u = 0; u < count - 1 + queries; ++u) {
    const float* line = x.diagonal + u;
    to[start + (count - 1 - u) * segment.step] +=
        (line[0] + line[diagonals]) + (line[2 * diagonals] + line[3 * diagonals]);
  }
}

// Relative, where keys and queries advance by different steps.
static void add_relative_apart(const QuerySide& side, const KeySegment& segment, int64_t m, int64_t count,
                               const Panel& panel, const float* ds, float* dtable) {
  const Problem& p = side.f.problem;
  BackwardScratch& x = side.x;
  for_each_apart(p, segment, m, count, panel.queries, [&](int64_t j, int64_t c, int64_t row) {
    const float weight = ds[j * side.width + c];
    if (weight == 0) return;  // what is masked does not leak
    const char* from = row_at(p.table, p.type, 0, side.place.head, row);
    const float* r = x.r + (panel.lane + c) * x.dr;
    for (int64_t i = 0; i < p.dr; ++i) {
      x.drt[i * side.width + panel.lane + c] += weight * load_one(from + i * bytes_of(p.type), p.type);
      if (dtable) dtable[row * table_row(p) + i] += weight * r[i];
    }
  });
}

#ifdef PK_PAIRS
// The same products of pairs: of rows of the table, and of lanes.
static void add_relative_pairs(const QuerySide& side, const TableRows& rows, const Panel& panel, float* dt,
                               float* dtable) {
  const Problem& p = side.f.problem;
  BackwardScratch& x = side.x;
  const int64_t width = panel.width, lane = panel.lane, there = rows.there();
  if (side.f.dquery.width) {
    read_row_pairs(x.table, x.dr, row_at(p.table, p.type, 0, side.place.head, rows.row(rows.begin)),
                   p.table.row * rows.step, there, p.dr);
    pack_keys(x.packed, dt, width, there, width);
    product<Pairs, Transposed, Add>(p.dr, width, (there + 1) / 2, x.table, x.dr, x.packed, width, x.drt + lane,
                                    side.width);
  }
  if (dtable) {
    if (!exact(p.scale)) scale_by(dt, there * width, p.scale);
    pack_lanes(x.packed, dt, width, there, width);
    product<Pairs, Plain, Add>(there, round_up(p.dr, W), (panel.queries.count + 1) / 2, x.packed, width / 2,
                               x.r + lane / 2 * x.dr, x.dr, dtable + rows.row(rows.begin) * table_row(p),
                               rows.step * table_row(p));
  }
}
#endif

// Relative: dRᵀ += tableᵀ dT, and the table's gradient += dT R, where dT is dS with its rows shifted
// back (see relative.h).
static void add_relative(const QuerySide& side, const KeySegment& segment, int64_t begin, int64_t many, float* dtable) {
  const Problem& p = side.f.problem;
  BackwardScratch& x = side.x;
  for_each_panel(side.place, side.queries, [&](const Panel& panel) {
    const KeyRange keys = seen(p.band, segment, panel, {begin, begin + many});
    const int64_t m = keys.begin, count = keys.end - m, width = panel.width, lane = panel.lane, ld = table_row(p);
    if (count == 0) return;
    const float* ds = x.ds + (m - begin) * side.width + lane;
    if (segment.step != side.queries.step) return add_relative_apart(side, segment, m, count, panel, ds, dtable);
    const TableRows rows(p, segment, m, count, panel.queries, width);
    shear_back(ds, side.width, x.bias, width, count);
    float* const dt = x.bias + rows.begin * width;
#ifdef PK_PAIRS
    if (side.f.relative_pairs) return add_relative_pairs(side, rows, panel, dt, dtable);
#endif
    const Tile table = table_of(p, side.place.head, rows, x.table, x.dr);
    // Most rows of a lane are 0, whatever the mask is.
    const bool safe = side.r_finite && all_finite(table.data, table.stride, rows.there(), p.dr);
    const auto times = safe ? product<Floats, Plain, Add> : careful_product<Plain, Add>;
    const auto transposed = safe ? product<Floats, Transposed, Add> : careful_product<Transposed, Add>;
    if (side.f.dquery.width) {
      transposed(p.dr, width, rows.there(), table.data, table.stride, dt, width, x.drt + lane, side.width);
    }
    if (dtable) {
      times(rows.there(), round_up(p.dr, W), panel.queries.count, dt, width, x.r + lane * x.dr, x.dr,
            dtable + rows.row(rows.begin) * ld, rows.step * ld);
    }
  });
}

// Dense, with an element for every pair: dS itself.
static void write_dense_gradient(const QuerySide& side, const KeySide& tile, const KeySegment& segment, int64_t m,
                                 int64_t count) {
  const Backward& f = side.f;
  const int64_t *size = f.ddense_size, row_step = side.queries.step * size[3];
  float* to = f.ddense + ((side.place.batch * size[1] + side.place.head) * size[2] + side.queries.first) * size[3] +
              segment.first + m * segment.step;
  float ones[W];
  store(ones, splat(1.0f));
  const int64_t end = smaller(tile.lane + tile.lanes, side.queries.count);
  for (int64_t c = tile.lane; c < end; c += W) {
    const int64_t rows = smaller(W, end - c);
    if (segment.step == 1) {
      write_transposed((char*)(to + c * row_step), Type::f32, row_step, side.x.ds + c, side.width, ones, rows, count);
      continue;
    }
    for (int64_t r = c; r < c + rows; ++r) {
      for (int64_t j = 0; j < count; ++j) to[r * row_step + j * segment.step] = side.x.ds[j * side.width + r];
    }
  }
}

// Dense, broadcast. The tiles are computed once more: a bias may be shared by batch rows and heads that other
// workers own, and this way every element has one owner and one order of summation.
static void dense_gradient(const Backward& f, int64_t bias_batch, int64_t bias_head, KeyRange keys, float* memory) {
  const Problem& p = f.problem;
  BackwardScratch x(p, 0, memory);
  const int64_t* size = f.ddense_size;
  float* base = f.ddense + (bias_batch * size[1] + bias_head) * size[2] * size[3];
  const int64_t row_step = size[2] == 1 ? 0 : size[3], column_step = size[3] == 1 ? 0 : 1;
  const int64_t batch_end = size[0] == 1 ? p.batch : bias_batch + 1, head_end = size[1] == 1 ? p.heads : bias_head + 1;
  for (int64_t batch = bias_batch; batch < batch_end; ++batch) {
    for (int64_t head = bias_head; head < head_end; ++head) {
      const Place place{batch, head, p.queries[batch].count, p.keys[batch].count};
      for_each_query_tile(p, batch, head, f.tile, [&](const QueryTile& queries) {
        const QuerySide side(f, place, queries, x);
        for_each_key_tile(p, place, queries, keys, [&](const KeySegment& segment, int64_t m, int64_t count) {
          const KeySide tile(side, segment, m, count);
          const int64_t end = smaller(tile.lane + tile.lanes, queries.count);
          for (int64_t c = tile.lane; c < end; ++c) {
            float* to = base + (queries.first + c * queries.step) * row_step;
            if (column_step == 0) {
              double sum = 0;
              for (int64_t j = 0; j < count; ++j) sum += x.ds[j * side.width + c];
              to[0] += static_cast<float>(sum);
              continue;
            }
            for (int64_t j = 0; j < count; ++j) {
              to[segment.first + (m + j) * segment.step] += x.ds[j * side.width + c];
            }
          }
        });
      });
    }
  }
}

}  // namespace PK_ISA
}  // namespace pkernels
