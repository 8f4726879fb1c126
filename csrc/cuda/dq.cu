#include "dq.cuh"

#include "instances.cuh"

PK_KERNELS(dq, Backward, BackwardShape, PK_EVERY_BIAS)
