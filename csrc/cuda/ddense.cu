#include "ddense.cuh"

#include "instances.cuh"

PK_ALL_KERNELS(ddense, Backward, BackwardShape, PK_DENSE, PK_DENSE)
