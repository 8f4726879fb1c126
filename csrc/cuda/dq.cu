#include "dq.cuh"

#include "instances.cuh"

PK_ALL_KERNELS(dq, Backward, BackwardShape, PK_EVERY_BIAS, PK_ABSOLUTE)
