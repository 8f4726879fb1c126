// Rows that lists name: a tile of a chunk and the chunks around it, in the order of Buckets
// (Kitaev et al. 2020, arXiv:2001.04451, section 2). A list in shared memory says which row each
// row of a tile is; lists are read two tiles ahead, their rows one.
#pragma once

#include "buckets.h"
#include "careful.cuh"
#include "philox.cuh"

namespace pkernels {
namespace cuda {

// In place of a row that is missing: as a query it sees nothing, as a key nobody sees it.
constexpr int no_query = -1, no_key = 0x7FFFFFFF;

PK_DEVICE bool sees(bool causal, int query, int key) {
  return key <= (causal ? query : query < 0 ? no_query : no_key - 1);
}

// What all threads of a CTA know of its work.
struct BucketPlan {
  int64_t sequence, head;
  const int32_t* order;     // of the sequence and head
  int first, count;         // entries of the tile
  int start, visited, all;  // it visits so many entries from `start` on, in a circle of `all`
  int rows;                 // of the tensors

  PK_DEVICE bool exists(int row) const { return static_cast<uint32_t>(row) < static_cast<uint32_t>(rows); }

  // Whatever the order says, a row of the tensors or `missing`.
  PK_DEVICE int row_at(int entry, int missing) const {
    const int row = order[entry];
    return exists(row) ? row : missing;
  }
};

PK_DEVICE void set_bucket_plan(BucketPlan& plan, const Call& c, const Round& round, int64_t before, int64_t after,
                               int own) {
  const Buckets& b = c.problem.buckets;
  const int64_t per = ceil_div(b.chunk, own), index = blockIdx.x % c.tiles, row = blockIdx.x / c.tiles;
  const int64_t chunk = round.first + index / per, first = chunk * b.chunk + index % per * own;
  plan.head = row % c.problem.heads, plan.sequence = row / c.problem.heads;
  plan.order = b.rows + plan.sequence * b.rows_batch + plan.head * b.rows_head;
  plan.first = static_cast<int>(first), plan.count = static_cast<int>(smaller(own, (chunk + 1) * b.chunk - first));
  plan.start = static_cast<int>(modulo(chunk - before, b.chunks) * b.chunk);
  plan.visited = static_cast<int>((before + 1 + after) * b.chunk), plan.all = static_cast<int>(b.chunks * b.chunk);
  plan.rows = static_cast<int>(c.rows_of_queries);
}

// Of rows of `Width` words: `Own` tiles of the CTA itself; others come in pairs, K and V or Q and dO, with `Numbers`
// numbers for each row.
template <int Width, int Own, int Numbers>
struct GatherShape {
  static constexpr int warps = 4, threads = 32 * warps, own = 16 * warps, slots = 2;
  static constexpr int other = Width == 64 ? 64 : Width == 128 ? 32 : 16, at_once = 8 / warps;
  static constexpr int own_bytes = own * Width * 2, other_bytes = other * Width * 2;
  static constexpr int slot = 2 * other_bytes + Numbers * other * 4, lists = Own * own_bytes + slots * slot;
  static constexpr int shared = lists + own * 4 + 3 * other * 4;
};

PK_DEVICE int load_row(uint32_t from) { return static_cast<int>(load_word(from)); }

template <class T, int D, class Shape>
struct Gathering {
  const BucketPlan& plan;
  const uint32_t memory;

  PK_DEVICE TileOf<T, D> own(int part) const { return {memory + part * Shape::own_bytes}; }
  PK_DEVICE TileOf<T, D> slot(int t, int part) const {
    return {memory + Shape::lists - (2 - t % 2) * Shape::slot + part * Shape::other_bytes};
  }
  PK_DEVICE uint32_t numbers(int t, int part) const { return slot(t, 2).address + part * Shape::other * 4; }
  PK_DEVICE uint32_t own_list() const { return memory + Shape::lists; }
  PK_DEVICE uint32_t list(int t) const { return own_list() + (Shape::own + t % 3 * Shape::other) * 4; }
  PK_DEVICE int own_row(int c) const { return load_row(own_list() + c * 4); }

  PK_DEVICE int tiles() const { return (plan.visited + Shape::other - 1) / Shape::other; }

  // The thread's entry of the list of tile t.
  PK_DEVICE int entry(int t, int missing) const {
    const int x = t * Shape::other + threadIdx.x;
    return threadIdx.x < Shape::other && x < plan.visited ? plan.row_at((plan.start + x) % plan.all, missing) : missing;
  }
  PK_DEVICE void note(int t, int row) const {
    if (threadIdx.x < Shape::other) store_shared(list(t) + threadIdx.x * 4, static_cast<uint32_t>(row));
  }

  // The lists of the tile itself and of the first two that it visits.
  PK_DEVICE void start(int missing, int other_missing) const {
    const int c = threadIdx.x;
    if (c < Shape::own) {
      const int row = c < plan.count ? plan.row_at(plan.first + c, missing) : missing;
      store_shared(own_list() + c * 4, static_cast<uint32_t>(row));
    }
    note(0, entry(0, other_missing));
    note(1, entry(1, other_missing));
    __syncthreads();
  }

  // Starts to load the rows of a list.
  template <int Count>
  PK_DEVICE void load(const TileOf<T, D>& to, const Lines& x, uint32_t list) const {
    constexpr int chunks = TileOf<T, D>::chunks, step = Shape::threads / chunks;
    const int chunk = threadIdx.x % chunks, bytes = min(16, max(0, (x.width - chunk * 8) * 2));
    const char* data = x.data + chunk * 16;
    if (x.whole) {
#pragma unroll
      for (int r = threadIdx.x / chunks; r < Count; r += step) {
        const int row = load_row(list + r * 4);
        const bool there = plan.exists(row) && bytes > 0;
        copy_async(to.at(r, chunk), there ? data + row * x.step : x.data, there ? bytes : 0);
      }
      return;
    }
#pragma unroll 1
    for (int r = threadIdx.x / chunks; r < Count; r += step) {
      const int row = load_row(list + r * 4), there = plan.exists(row) ? bytes : 0;
      const auto* numbers = reinterpret_cast<const uint16_t*>(data + row * x.step);
      uint32_t words[4] = {};
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        if (2 * c < there) words[c / 2] |= static_cast<uint32_t>(numbers[c]) << c % 2 * 16;
      }
      store_shared(to.at(r, chunk), make_uint4(words[0], words[1], words[2], words[3]));
    }
  }

  PK_DEVICE void load_own(int part, const Lines& x) const { load<Shape::own>(own(part), x, own_list()); }
  PK_DEVICE void load_other(int t, int part, const Lines& x) const { load<Shape::other>(slot(t, part), x, list(t)); }

  // Starts to load K and V of tile t.
  template <class Arguments>
  PK_DEVICE void fetch_keys(int t, const Arguments& f) const {
    if (t < tiles()) {
      const Problem& p = f.call.problem;
      const int64_t head = plan.head / p.group();
      load_other(t, 0, lines_of(f.k, plan.sequence, head, 0, p.d, T::halves));
      load_other(t, 1, lines_of(f.v, plan.sequence, head, 0, p.dv, T::halves));
    }
    commit_copies();
  }

  // Of a number per row, that of the lane's two own rows; 0 where there is none.
  PK_DEVICE void own_numbers(float (&to)[2], const Rows& x, int row) const {
    const float* from = numbers_of(x, plan.sequence, plan.head, 0);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = own_row(row_of(row, 0, 2 * half));
      to[half] = plan.exists(r) ? from[r] : 0.0f;
    }
  }

  // f(n, e, own row, other row) for the numbers that a lane holds of tile t.
  template <class F>
  PK_DEVICE void for_each(int t, int row, F f) const {
    const int mine[2] = {own_row(row_of(row, 0, 0)), own_row(row_of(row, 0, 2))};
#pragma unroll
    for (int n = 0; n < Shape::other / 8; ++n) {
      const uint2 two = load_two_words(list(t) + column_of(n, 0) * 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) f(n, e, mine[e / 2], static_cast<int>(e % 2 ? two.y : two.x));
    }
  }

  // Which of the lane's pairs stay: bit 4 n + e. Keys are no neighbours, so each pair is drawn for.
  template <bool OwnKeys>
  PK_DEVICE uint32_t survivors(const Dropout& dropout, int t, int row) const {
    uint32_t stay = 0;
#pragma unroll 1
    for (int at = 0; at < Shape::other / 2; ++at) {
      const int mine = own_row(row_of(row, 0, at % 4)), other = load_row(list(t) + column_of(at / 4, at % 4) * 4);
      const int query = OwnKeys ? other : mine, key = OwnKeys ? mine : other;
      stay |= (dropout.draw(query, key / 8) >> key % 8 & 1) << at;
    }
    return stay;
  }

  // `factor` times x is added to the tile's rows of `to`, `width` numbers of each.
  PK_DEVICE void add_rows(const Fragments<1, D>& x, float factor, const Rows& to, int64_t width, int row) const {
    float* sums = static_cast<float*>(to.data) + plan.sequence * to.batch + plan.head * to.head;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = own_row(row_of(row, 0, 2 * half));
      if (!plan.exists(r)) continue;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        const int column = column_of(n, 0);
        if (column >= width) continue;
        auto* at = reinterpret_cast<float2*>(sums + r * to.row + column);
        const float2 before = *at;
        *at = {before.x + x[0][n][2 * half] * factor, before.y + x[0][n][2 * half + 1] * factor};
      }
    }
  }
};

}  // namespace cuda
}  // namespace pkernels
