// What the kernels of csrc/cuda are given, by value: one attention call whose tensors lie on the GPU.
#pragma once

#include "../params.h"

namespace pkernels {
namespace cuda {

enum class Bias : int32_t { none, distance, dense, relative };

struct Call {
  Problem problem;                                // its spans, columns and seed stay empty: those below are on the GPU
  int64_t rows_of_queries = 0, rows_of_keys = 0;  // of the tensors
  const int32_t *query_spans = nullptr, *key_spans = nullptr;  // (first, count) of each sequence; nullptr: all rows
  const int32_t* prefix = nullptr;                             // global keys, one number per sequence; or
  int64_t columns = 0;                                         // one for all
  const int64_t* seed = nullptr;
  const int32_t* counts = nullptr;  // with blocks: how often each entry of the lists counts, or each pair of blocks
  int64_t tiles = 0;                // of a head, at most: of one sequence, of all if packed
};

struct Forward {
  Call call;
  Rows q, k, v, out;
  Rows lse;  // float32, one number per row

  int64_t parts = 1;  // of the keys, one for each CTA that a tile of queries has

  // If there are several: their outputs (parts, B, H, Sq, Dv), float32, contiguous, instead of `out`; lse is (parts, B,
  // H, Sq) then, and a part as many rows.
  float* outs = nullptr;
  int64_t part_rows = 0;
};

// Parts put together: (parts, rows, width) and (parts, rows) to rows b, h, i of `out` and `lse`.
struct Merge {
  const float *outs, *lses;
  int64_t parts, rows, width, heads, per_head;
  Rows out, lse;
};

struct Backward {
  Call call;
  Rows q, k, v, out, dout, dq, dk, dv;
  Rows lse, dlse, delta;  // float32, one number per row; dlse may be missing
  Rows dquery;            // of a Relative; may be missing

  // The gradient of a Dense, contiguous, in `sizes`; or of a Distance or of a table: one for each sequence and head.
  float* dbias = nullptr;
  int64_t sizes[4] = {};
  int64_t across = 0;  // over blocks `call.counts` is of all pairs then, (lists, rows, across)
};

}  // namespace cuda
}  // namespace pkernels
