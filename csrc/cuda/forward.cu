#include "forward.cuh"
#include "instances.cuh"

PK_ALL_KERNELS(forward, Forward, ForwardShape, PK_EVERY_BIAS, PK_ABSOLUTE)
