// What the kernels over Buckets are given, one launch a round: in a round every row stands at most
// once, so that its running softmax and its gradients go on in float32 memory without atomics.
#pragma once

#include "launch.h"

namespace pkernels {
namespace cuda {

// Chunks [first, first + count) of the circle.
struct Round {
  int64_t first = 0, count = 0;
};

struct BucketsForward {
  Call call;  // problem.buckets.rows: the order, -1 for no row; starts stay empty
  Round round;
  Rows q, k, v;
  Rows acc, top, total;  // float32, of every row: the weighted sum of values, its pivot in units of log 2, its total
};

struct BucketsBackward {
  Call call;
  Round round;
  Rows q, k, v, dout;
  Rows lse, delta, own;  // float32, one number per row; own, the score of a row against itself, may be missing
  Rows dq, dk, dv;       // float32 sums, of every row and query head
};

Kernel buckets_forward_kernel(Type type, int64_t d, Bias bias);
Kernel buckets_dq_kernel(Type type, int64_t d, Bias bias);
Kernel buckets_dkv_kernel(Type type, int64_t d, Bias bias);

}  // namespace cuda
}  // namespace pkernels
