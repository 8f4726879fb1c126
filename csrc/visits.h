// Which tiles of queries a pattern has, and which keys each of them visits: the loops of the
// three shapes. What happens when a tile meets its keys is the same for all.
#pragma once

#include "band.h"

namespace pkernels {

// Calls f(QueryTile) for tiles of at most `size` queries, none across two blocks.
template <class F>
void for_each_block_tile(const Blocks& blocks, int64_t n_q, int64_t size, F f) {
  for (int64_t begin = 0; begin < n_q; begin += blocks.size) {
    const int64_t end = smaller(n_q, begin + blocks.size);
    for (int64_t i = begin; i < end; i += size) f(QueryTile{i, 1, smaller(size, end - i)});
  }
}

// Calls f(KeySegment) for runs of neighbouring blocks that count alike.
template <class F>
void for_each_listed_block(const Blocks& blocks, int64_t head, int64_t n_k, const QueryTile& tile, F f) {
  const int32_t* offsets = blocks.offsets + (blocks.lists == 1 ? 0 : head) * (blocks.rows + 1);
  const int64_t block = tile.first / blocks.size, end = offsets[block + 1];
  for (int64_t e = offsets[block]; e < end;) {
    int64_t next = e + 1;
    while (next < end && blocks.columns[next] == blocks.columns[next - 1] + 1 && blocks.added[next] == blocks.added[e])
      ++next;
    const int64_t first = blocks.columns[e] * blocks.size;
    KeySegment segment{first, 1, smaller((next - e) * blocks.size, n_k - first)};
    segment.added = blocks.added[e];
    if (segment.count > 0) f(segment);
    e = next;
  }
}

// Calls f(QueryTile) for tiles of at most `size` rows of chunks [begin, end); `first` is the chunk.
template <class F>
void for_each_chunk_tile(const Buckets& buckets, int64_t batch, int64_t head, int64_t begin, int64_t end, int64_t size,
                         F f) {
  const int32_t* rows = buckets.rows + batch * buckets.rows_batch + head * buckets.rows_head;
  const int32_t* starts = buckets.starts + batch * buckets.starts_batch + head * buckets.starts_head;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    for (int64_t i = starts[chunk]; i < starts[chunk + 1]; i += size) {
      f(QueryTile{chunk, 0, smaller(size, starts[chunk + 1] - i), false, rows + i});
    }
  }
}

// Calls f(KeySegment) for the chunks around a tile's, in a circle.
template <class F>
void for_each_near_chunk(const Buckets& buckets, int64_t batch, int64_t head, const QueryTile& tile, F f) {
  const int32_t* rows = buckets.rows + batch * buckets.rows_batch + head * buckets.rows_head;
  const int32_t* starts = buckets.starts + batch * buckets.starts_batch + head * buckets.starts_head;
  for (int64_t at = tile.first - buckets.before; at <= tile.first + buckets.after;) {
    // Up to the end of the circle, neighbours lie behind one another.
    const int64_t chunk = modulo(at, buckets.chunks);
    const int64_t n = smaller(tile.first + buckets.after + 1 - at, buckets.chunks - chunk);
    KeySegment segment{0, 0, starts[chunk + n] - starts[chunk]};
    segment.list = rows + starts[chunk];
    if (segment.count > 0) f(segment);
    at += n;
  }
}

// Calls f(QueryTile) for tiles of at most `size` queries that cover all rows of a sequence (with
// buckets: once in every round).
template <class F>
void for_each_query_tile(const Problem& p, int64_t batch, int64_t head, int64_t size, F f) {
  const int64_t n_q = p.queries[batch].count, n_k = p.keys[batch].count;
  if (p.blocks.size) return for_each_block_tile(p.blocks, n_q, size, f);
  if (p.buckets.chunks) return for_each_chunk_tile(p.buckets, batch, head, 0, p.buckets.chunks, size, f);
  for_each_query_tile(p.band, n_q, n_k, size, f);
}

// Calls f(KeySegment) for the keys that a tile visits.
template <class F>
void for_each_segment(const Problem& p, int64_t batch, int64_t head, const QueryTile& tile, F f) {
  const int64_t n_q = p.queries[batch].count, n_k = p.keys[batch].count;
  if (p.blocks.size) return for_each_listed_block(p.blocks, head, n_k, tile, f);
  if (p.buckets.chunks) return for_each_near_chunk(p.buckets, batch, head, tile, f);
  KeySegment found[2];
  const int n = segments(p.band, p.columns[batch], n_q, n_k, tile, found);
  for (int i = 0; i < n; ++i) f(found[i]);
}

}  // namespace pkernels
