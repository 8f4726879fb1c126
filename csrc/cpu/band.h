// Attention over a Band on the CPU: divides the work among threads.
#pragma once

#include "kernels.h"

namespace pkernels {

void band_forward(Forward call);

// Writes dq, dk, dv and, where asked for, the biases' gradients. `ddistance` must hold
// band_parts(call.problem) * batch rows per head.
void band_backward(Backward call);

// Into how many parts the keys of each (batch row, key head) are split in the backward.
int64_t band_parts(const Problem& problem);

// Floating-point operations per second of a loop of multiply-adds, all threads together.
double peak_rate(double seconds, bool in_pairs);

}  // namespace pkernels
