#include "ddense.cuh"

#include "instances.cuh"

PK_KERNELS(ddense, Backward, BackwardShape, PK_DENSE)
