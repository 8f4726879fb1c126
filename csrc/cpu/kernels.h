// The table of functions that each instruction set provides. Work is divided by band.cpp.
#pragma once

#include "../band.h"

namespace pkernels {

constexpr int64_t max_panels = 6;  // of a tile in the forward

struct Forward {
  Problem problem;
  int64_t tile;    // queries of a tile
  int64_t heads;   // of a tile: neighbours that share their keys
  int64_t panels;  // of a tile, at most
  bool pairs;      // multiply bfloat16 in pairs: rows of q and k are whole 32-bit words
  Rows q, k, v, out;
  float* lse;  // rows contiguous
  int64_t lse_batch, lse_head;
};

constexpr int64_t most_narrow = 16;  // rows of queries that share a key head

// Floats that the running softmax of one query takes.
inline int64_t narrow_row(const Problem& p) { return (p.dv + 15) / 16 * 16 + 16; }

struct Backward {
  Problem problem;
  int64_t tile;  // queries of a tile
  bool pairs;    // multiply bfloat16 in pairs: rows of q, k, v and dout are whole 32-bit words
  Rows q, k, v, out, dout, dq, dk, dv;
  const float* lse;
  const float* dlse;  // nullptr: zero
  int64_t lse_batch, lse_head, dlse_batch, dlse_head, dlse_row;

  // Keys are split into parts of one batch row and key head each; dq is then summed over
  // the parts: dq_parts[part][b][h][row][d], float32. nullptr with a single part.
  int64_t parts;
  float* dq_parts;
  Rows dq_part;  // strides within a part
  int64_t dq_part_size;

  float* ddistance;  // [part * batch + b][head][width], or nullptr
  float* ddense;     // the shape of dense, contiguous, or nullptr
  int64_t ddense_size[4];
  bool ddense_owned;  // every pair has an element of its own: the pass that writes dq does
};

struct Kernels {
  const char* name;
  bool pairs;     // multiplies bfloat16 in pairs
  int64_t width;  // queries of a vector
  int64_t panel;  // queries of a panel, at most; three of them are a tile of the backward

  // Scratch memory of one worker, in floats.
  int64_t (*forward_scratch)(const Problem&, int64_t panels);
  int64_t (*backward_scratch)(const Problem&, int64_t keys);

  void (*forward)(const Forward&, int64_t b, int64_t head, int64_t heads, const QueryTile&, float* scratch);
  // All queries of a key head, for few queries without dropout or a dense bias: over some keys,
  // then merged (see narrow.h).
  int64_t (*narrow_scratch)(const Problem&, int64_t rows);
  void (*narrow)(const Forward&, int64_t b, int64_t kv_head, KeyRange keys, float* state, float* scratch);
  void (*narrow_finish)(const Forward&, int64_t b, int64_t kv_head, float* states, int64_t parts, int64_t stride);
  // dk, dv of some keys of one key head, and their share of dq.
  void (*backward)(const Backward&, int64_t b, int64_t kv_head, int64_t part, KeyRange keys, float* scratch);
  // The gradient of a Dense bias at [batch, head] of the bias, for some keys.
  void (*dense_gradient)(const Backward&, int64_t batch, int64_t head, KeyRange keys, float* scratch);
  // dq = sum of dq_parts, for rows [begin, end) of all (batch row, head, row).
  void (*sum_parts)(const Backward&, int64_t b, int64_t head, int64_t begin, int64_t end);
  // Multiply-adds in registers for `rounds` rounds, of bfloat16 pairs if asked for and there: the
  // processor's peak. Returns flops.
  double (*peak)(int64_t rounds, bool in_pairs);
};

const Kernels* kernels_portable();
#if defined(__x86_64__)
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512bf16();
#endif

}  // namespace pkernels
