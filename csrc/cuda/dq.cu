#include "dq.cuh"

#include "instances.cuh"

PK_KERNELS(dq, Backward, BackwardShape)
