#include "dkv.cuh"

#include "instances.cuh"

PK_KERNELS(dkv, Backward, BackwardShape, PK_EVERY_BIAS)
