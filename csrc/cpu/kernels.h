// The table of functions that each instruction set provides. Work is divided by band.cpp.
#pragma once

#include "../visits.h"

namespace pkernels {

constexpr int64_t max_panels = 6;  // of a tile in the forward

struct Forward {
  Problem problem;
  int64_t tile;         // queries of a tile
  int64_t heads;        // of a tile: neighbours that share their keys
  int64_t panels;       // of a tile, at most
  bool pairs;           // multiply bfloat16 in pairs: rows of q and k are whole 32-bit words
  bool relative_pairs;  // the same of a relative bias: queries and keys advance together
  Rows q, k, v, out;
  float* lse;  // rows contiguous
  int64_t lse_batch, lse_head;
};

// A tile of queries of `heads` heads from `head` on, that share their keys.
struct Item {
  int64_t batch, head, heads;
  QueryTile queries;
};

constexpr int64_t most_narrow = 16;  // rows of queries that share a key head

// Floats that the running softmax of one query takes.
inline int64_t narrow_row(const Problem& p) { return (p.dv + 15) / 16 * 16 + 16; }

// Floats of a row of the table's gradient.
inline int64_t table_row(const Problem& p) { return (p.dr + 15) / 16 * 16; }

// A gradient of rows of queries, to which every part of the keys adds: each has float32 rows of its
// own, parts[part][b][h][row][width], that are summed afterwards. nullptr with a single part.
struct Shares {
  Rows to;
  int64_t width = 0;  // 0: not asked for
  float* parts = nullptr;
  Rows part;  // strides within a part
  int64_t size = 0;
};

struct Backward {
  Problem problem;
  int64_t tile;         // queries of a tile
  bool pairs;           // multiply bfloat16 in pairs: rows of q, k, v and dout are whole 32-bit words
  bool relative_pairs;  // as of Forward
  Rows q, k, v, out, dout, dk, dv;
  const float* lse;
  const float* dlse;  // nullptr: zero
  int64_t lse_batch, lse_head, dlse_batch, dlse_head, dlse_row;

  int64_t parts;  // of the keys of one batch row and key head
  Shares dq, dquery;

  float* ddistance;  // [part * batch + b][head][width], or nullptr
  float* dtable;     // [part * batch + b][head][row][table_row(problem)], or nullptr
  float* ddense;     // the shape of dense, contiguous, or nullptr
  int64_t ddense_size[4];
  bool ddense_owned;  // every pair has an element of its own: the pass that writes dq does
};

struct Hash {
  Type type = Type::f32;
  int64_t batch = 0, heads = 0, rows = 0, d = 0, rounds = 0;
  Rows x;
  const float* rotations = nullptr;  // [head][d][round][sum of buckets / 2]
  const int64_t* buckets = nullptr;  // factors of their number, all even
  int64_t factors = 0;
};

// One layer of an LSTM with a projected state, in one direction; see pkernels/reference/lstm.py for
// the equations. Numbers of cells and of the state's elements are multiples of lstm_lanes.
constexpr int64_t lstm_lanes = 16;  // cells whose four gates lie together in `recurrent`
constexpr int64_t lstm_group = 64;  // cells worked on at a time, at most

struct Lstm {
  int64_t steps = 0, cells = 0, width = 0;
  bool reverse = false;
  float cell_clip = 0, projection_clip = 0;            // infinity: none
  const int64_t *order = nullptr, *lengths = nullptr;  // batch rows by falling length, and their lengths

  // Forward: [cells / lanes][width][gate][lanes] and [cells][width].
  // Backward: [gate][cells][width] and, for each group of n cells, [width][n].
  const float *recurrent = nullptr, *projection = nullptr;

  const float* x = nullptr;          // [b][step][gate][cells]
  float* out = nullptr;              // [b][step][width]
  float* gates = nullptr;            // [b][step][gate][cells], or nullptr: not to be kept
  float* memory = nullptr;           // [b][step][cells], or nullptr
  float *h = nullptr, *c = nullptr;  // [b][width], [b][cells]: the state, from one end to the other; or its gradient

  const float *dout = nullptr, *first = nullptr;  // of the backward: [b][step][width]; c before the first step
  float *dx = nullptr, *dstate = nullptr, *hidden = nullptr;  // of x; of out, not clipped; [b][step][cells]
};

// Whether rows of 16-bit numbers begin at multiples of four bytes.
inline bool whole_words(const Rows& x) {
  return reinterpret_cast<uintptr_t>(x.data) % 4 == 0 && (x.batch | x.head | x.row) % 2 == 0;
}

inline int64_t lstm_scratch(const Lstm& f, int64_t rows) { return rows * (3 * f.width + 5 * lstm_group); }

struct Kernels {
  const char* name;
  bool pairs;     // multiplies bfloat16 in pairs
  int64_t width;  // queries of a vector
  int64_t panel;  // queries of a panel, at most; three of them are a tile of the backward
  int64_t keys;   // of a tile, at most

  // Scratch memory of one worker, in floats.
  int64_t (*forward_scratch)(const Problem&, int64_t panels);
  int64_t (*backward_scratch)(const Problem&, int64_t keys);

  // `next` is the item that the worker will likely take then, or nullptr.
  void (*forward)(const Forward&, const Item&, const Item* next, float* scratch);
  // All queries of a key head, for few queries without dropout or a dense bias: over some keys,
  // then merged (see narrow.h).
  int64_t (*narrow_scratch)(const Problem&, int64_t rows);
  void (*narrow)(const Forward&, int64_t b, int64_t kv_head, KeyRange keys, float* state, float* scratch);
  void (*narrow_finish)(const Forward&, int64_t b, int64_t kv_head, float* states, int64_t parts, int64_t stride);
  // dk, dv of some keys of one key head, and their share of dq.
  void (*backward)(const Backward&, int64_t b, int64_t kv_head, int64_t part, KeyRange keys, float* scratch);
  // The gradient of a Dense bias at [batch, head] of the bias, for some keys.
  void (*dense_gradient)(const Backward&, int64_t batch, int64_t head, KeyRange keys, float* scratch);
  // dq and dquery from their parts, for rows [begin, end) of all (batch row, head, row).
  void (*sum_parts)(const Backward&, int64_t b, int64_t head, int64_t begin, int64_t end);
  // Chunks of one head, into the running softmaxes of its rows; and those of several workers,
  // `stride` floats apart, merged and written.
  int64_t (*softmaxes_size)(const Problem&, int64_t rows);
  void (*forward_chunks)(const Forward&, int64_t b, int64_t head, KeyRange chunks, float* state, float* scratch);
  void (*finish_chunks)(const Forward&, int64_t b, int64_t head, float* states, int64_t parts, int64_t stride);
  // Chunks of the heads that share a key head, into sums of dq, dk and dv; and those of several
  // workers, added up and written.
  int64_t (*sums_size)(const Problem&, int64_t rows);
  void (*backward_chunks)(const Backward&, int64_t b, int64_t kv_head, KeyRange chunks, float* sums, float* scratch);
  void (*finish_sums)(const Backward&, int64_t b, int64_t kv_head, float* sums, int64_t parts, int64_t stride);
  // The hash of every row.
  int64_t (*hash_scratch)(const Hash&);
  void (*hash)(const Hash&, int64_t b, int64_t head, int64_t round, int32_t* to, float* scratch);
  // All steps of rows [begin, end) of the order.
  void (*lstm_forward)(const Lstm&, int64_t begin, int64_t end, float* scratch);
  void (*lstm_backward)(const Lstm&, int64_t begin, int64_t end, float* scratch);
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
