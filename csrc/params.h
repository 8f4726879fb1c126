// What a kernel is given: one attention call in plain numbers and pointers.
// No torch, no standard library: the same structs serve the CPU and the GPU sources.
#pragma once

#include <cstdint>

// Functions that both the CPU and the GPU sources call.
#ifdef __CUDACC__
#define PK_BOTH __host__ __device__
#else
#define PK_BOTH
#endif

namespace pkernels {

enum class Type : int32_t { f32, bf16, f16 };

// A tensor (B, H, S, D) whose last dimension is contiguous; strides in elements.
struct Rows {
  void* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
};

// Rows of one sequence: padded batches start at row 0, packed ones anywhere.
struct Span {
  int64_t first = 0, count = 0;
};

// Which pairs of positions are kept; see pkernels/patterns.py. `left` and `right` are
// clamped to the sequence lengths, so that sums never overflow.
struct Band {
  int64_t left = 0, right = 0, rows = 0, dilation = 1;
};

// For each query block of `size` rows, the key blocks that it sees: entries offsets[i] to
// offsets[i + 1] of columns, rising, and of what is added to their scores: the logarithm of how
// often they count. See pkernels/blocks.py.
struct Blocks {
  const int32_t *offsets = nullptr, *columns = nullptr;
  const float* added = nullptr;
  int64_t size = 0, rows = 0, lists = 0;  // `lists` of `rows` blocks each: one per head, or one
};

// Rows in the order of their buckets, all rounds behind one another, in chunks: chunk c of a
// sequence and head is rows[starts[c]] to rows[starts[c + 1]]. See pkernels/buckets.py.
struct Buckets {
  const int32_t *rows = nullptr, *starts = nullptr;
  int64_t rows_batch = 0, rows_head = 0, starts_batch = 0, starts_head = 0;
  int64_t chunks = 0, chunk = 0, before = 0, after = 0;  // `chunk` rows of each, at most
  bool causal = false, given = false;
  float own = 0;  // if given: what a row scores against itself
};

struct Problem {
  Type type = Type::f32;
  int64_t batch = 0, heads = 0, kv_heads = 0, d = 0, dv = 0;
  bool packed = false;            // all sequences lie in batch row 0
  const Span* queries = nullptr;  // one per sequence
  const Span* keys = nullptr;
  const int64_t* columns = nullptr;  // global keys, one number per sequence
  Band band;                         // unless there are blocks or buckets
  Blocks blocks;
  Buckets buckets;
  float scale = 1;

  // bias[h, j - i + zero]
  const float* distance = nullptr;
  int64_t distance_head = 0, distance_width = 0, zero = 0;

  // bias[b, h, i, j], stride 0 where broadcast; float32 or the type of q
  const void* dense = nullptr;
  Type dense_type = Type::f32;
  int64_t dense_batch = 0, dense_head = 0, dense_row = 0, dense_column = 0;

  // bias[b, h, i, j] = scale * query[b, h, i] . table[h, j - i + zero], dr numbers each; 0: none
  Rows query, table;
  int64_t dr = 0, table_rows = 0;

  // A weight is kept if its 16 random bits reach `threshold`, and divided by 1 - dropout.
  uint32_t threshold = 0;
  float keep_scale = 1;
  uint64_t seed = 0;

  PK_BOTH int64_t group() const { return heads / kv_heads; }
  PK_BOTH int64_t storage(int64_t b) const { return packed ? 0 : b; }
};

}  // namespace pkernels
