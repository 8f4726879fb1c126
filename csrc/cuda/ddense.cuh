// The gradient of a Dense, a CTA per tile of it: dS (see backward.cuh), worked out again and summed
// over the sequences, heads, queries and keys that the bias was broadcast over.
#pragma once

#include "backward.cuh"
#include "kept.cuh"

namespace pkernels {
namespace cuda {

// What all threads of a CTA know of a sequence and head.
template <class Kept>
struct DensePlan {
  Place place;  // its tile is of no use
  Kept kept;
  Sources queries, keys;
  float *lse, *delta;
};

template <class T, int D, class Kept>
struct DensePass {
  using Shape = BackwardShape<D * T::halves, Bias::dense>;
  using Sum = Fragments<1, Shape::other>;

  const Backward& f;
  DensePlan<Kept>& plan;
  const uint32_t memory;
  const int row = threadIdx.x / 32 * 16;  // the warp's first one

  PK_DEVICE Tiles<D * T::halves> queries() const { return {{memory}, {memory + Shape::own * Shape::row_bytes}}; }
  PK_DEVICE Tiles<D * T::halves> keys(int number) const {
    const uint32_t slot = memory + Shape::own_rows * Shape::row_bytes + number * Shape::slot;
    return {{slot}, {slot + Shape::other * Shape::row_bytes}};
  }

  PK_DEVICE void set_plan(int64_t sequence, int64_t head) const {
    const Problem& p = f.call.problem;
    Place& x = plan.place;
    x.sequence = sequence, x.head = head;
    x.queries = span(f.call.query_spans, sequence, f.call.rows_of_queries);
    x.keys = span(f.call.key_spans, sequence, f.call.rows_of_keys);
    plan.kept = Kept::of(f, x);
    plan.queries = queries_of<T>(f, x, head), plan.keys = keys_of<T>(f, x, head / p.group());
    plan.lse = numbers_of(f.lse, p.storage(sequence), head, x.queries.first);
    plan.delta = numbers_of(f.delta, p.storage(sequence), head, x.queries.first);
  }

  PK_DEVICE void fetch(int t, int64_t first) const {
    const int n_k = plan.kept.n_k, j = static_cast<int>(first) + t * Shape::other;
    if (j < n_k) keys(t % 2).template load<Shape::other, Shape::threads>(plan.keys, j, 1, n_k - j);
    commit_copies();
  }

  // Adds dS of queries i, ... and the keys [first, first + count), tile after tile.
  PK_DEVICE void add_rows(Sum& sum, int i, int64_t first, int64_t count) const {
    const Problem& p = f.call.problem;
    const Kept& kept = plan.kept;
    const Dropout dropout = dropout_of(f.call, plan.place.head, plan.place.sequence);
    __syncthreads();
    queries().template load<Shape::own, Shape::threads>(plan.queries, i, 1, kept.n_q - i);
    fetch(0, first);
    float lse[2], delta[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = i + row_of(row, 0, 2 * half);
      lse[half] = at < kept.n_q ? lse_of(plan.lse[at]) : 0.0f;
      delta[half] = at < kept.n_q ? plan.delta[at] : 0.0f;
    }
    const int tiles = static_cast<int>(ceil_div(count, Shape::other));
    for (int t = 0; t < tiles; ++t) {
      wait_for_copies<0>();
      __syncthreads();
      fetch(t + 1, first);
      const int j = static_cast<int>(first) + t * Shape::other;
      const Pairs<false> pairs{i, 1, j, 1};
      Sum s = {};
      multiply_rows<T, D, 1, Shape::other>(s, queries().a, row, keys(t % 2).a);
      to_gradients<T, Bias::dense, Shape::other>(
          s, p, [&](Sum& dp) { multiply_rows<T, D, 1, Shape::other>(dp, queries().b, row, keys(t % 2).b); }, dropout,
          plan.place.sequence, plan.place.head, pairs, row, 0, lse, delta,
          [&](int c, int o) { return i + c < kept.n_q && j + o < kept.n_k; }, 0,
          [&](Sum& weights) {
#pragma unroll
            for (int k = 0; k < Shape::other / 2; ++k) {
              float& w = weights[0][k / 4][k % 4];
              w = kept.weigh(w, i + row_of(row, 0, k % 4), j + column_of(k / 4, k % 4));
            }
          },
          true);
#pragma unroll
      for (int k = 0; k < Shape::other / 2; ++k) sum[0][k / 4][k % 4] += s[0][k / 4][k % 4];
    }
    wait_for_copies<0>();
  }

  // Sums over the columns of each row, and puts them into column 0.
  PK_DEVICE void sum_columns(Sum& sum) const {
    float rows[2] = {};
#pragma unroll
    for (int k = 0; k < Shape::other / 2; ++k) rows[k / 2 % 2] += sum[0][k / 4][k % 4], sum[0][k / 4][k % 4] = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float x = row_sum(rows[half]);
      if (threadIdx.x % 4 == 0) sum[0][0][2 * half] = x;
    }
  }

  // Sums over the rows of each column, and writes those below `count`.
  PK_DEVICE void write_columns(const Sum& sum, float* to, int count) const {
    const int lane = threadIdx.x % 32;
    __syncthreads();
#pragma unroll
    for (int n = 0; n < Shape::other / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float x = sum[0][n][e] + sum[0][n][e + 2];
#pragma unroll
        for (int apart = 4; apart < 32; apart *= 2) x += __shfl_xor_sync(~0u, x, apart);
        const uint32_t place = memory + (threadIdx.x / 32 * Shape::other + column_of(n, e)) * 4;
        if (lane < 4) store_shared(place, __float_as_uint(x));
      }
    }
    __syncthreads();
    const int c = threadIdx.x;
    if (c >= min(count, Shape::other)) return;
    float x = 0;
#pragma unroll
    for (int w = 0; w < Shape::warps; ++w) x += load_one(memory + (w * Shape::other + c) * 4);
    to[c] = x;
  }

  PK_DEVICE void run() const {
    const Problem& p = f.call.problem;
    const int64_t b = f.sizes[0], h = f.sizes[1], rows = f.sizes[2], columns = f.sizes[3];
    const int64_t across = ceil_div(columns, Shape::other), down = ceil_div(rows, Shape::own);
    int64_t index = blockIdx.x;
    const int n0 = static_cast<int>(index % across * Shape::other);
    index /= across;
    const int m0 = static_cast<int>(index % down * Shape::own);
    index /= down;
    const int64_t h0 = index % h, b0 = index / h;
    Sum sum = {};
    for (int64_t sequence = b0; sequence < (b == 1 ? p.batch : b0 + 1); ++sequence) {
      for (int64_t head = h0; head < (h == 1 ? p.heads : h0 + 1); ++head) {
        __syncthreads();
        if (threadIdx.x == 0) set_plan(sequence, head);
        __syncthreads();
        const int n_q = plan.kept.n_q, n_k = plan.kept.n_k, end = rows == 1 ? n_q : min(n_q, m0 + Shape::own);
        for (int i = m0; i < end; i += Shape::own) {
          const int count = min(Shape::own, end - i), last = columns == 1 ? n_k : min(n_k, n0 + Shape::other);
          Range run{n0, 0};
          do {
            run = plan.kept.run(i, count, run.first + run.count, last, Shape::other);
            if (run.count > 0) add_rows(sum, i, run.first, run.count);
          } while (run.count > 0);
        }
      }
    }
    if (columns == 1) sum_columns(sum);
    float* to = f.dbias + ((b0 * h + h0) * rows + m0) * columns + n0;
    if (rows == 1) return write_columns(sum, to, static_cast<int>(columns - n0));
#pragma unroll
    for (int k = 0; k < Shape::other / 2; ++k) {
      const int c = row_of(row, 0, k % 4), o = column_of(k / 4, k % 4);
      if (m0 + c < rows && n0 + o < columns) to[c * columns + o] = sum[0][k / 4][k % 4];
    }
  }
};

template <class T, int D, Bias B, class Kept = cuda::Kept>
PK_DEVICE void ddense(const Backward& f) {
  extern __shared__ uint4 memory[];
  __shared__ DensePlan<Kept> plan;
  DensePass<T, D, Kept>{f, plan, shared_address(memory)}.run();
}

}  // namespace cuda
}  // namespace pkernels
