#include "dkv.cuh"

#include "instances.cuh"

PK_ALL_KERNELS(dkv, Backward, BackwardShape, PK_EVERY_BIAS, PK_ABSOLUTE)
