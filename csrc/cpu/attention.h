// Attention on the CPU: divides the work among threads.
#pragma once

#include "kernels.h"

namespace pkernels {

// Over a Band or Blocks.
void attention_forward(Forward call);

// Writes dq, dk, dv and, where asked for, the biases' gradients. `ddistance` must hold
// key_parts(call.problem) * batch rows per head.
void attention_backward(Backward call);

// Into how many parts the keys of each (batch row, key head) are split in the backward.
int64_t key_parts(const Problem& problem);

// Over Buckets.
void chunks_forward(Forward call);
void chunks_backward(Backward call);

// Rows in the order of their hashes, [b][head][round][entries]; -1 beyond the real ones.
void lsh_order(const Hash& call, const bool* mask, int32_t* order, int64_t entries);

// All steps of an LSTM's `rows`, which lie in the order of their lengths.
void lstm_forward(const Lstm& call, int64_t rows);
void lstm_backward(const Lstm& call, int64_t rows);

// Floating-point operations per second of a loop of multiply-adds, all threads together.
double peak_rate(double seconds, bool in_pairs);

}  // namespace pkernels
