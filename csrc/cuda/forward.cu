#include "forward.cuh"
#include "instances.cuh"

PK_KERNELS(forward, Forward, ForwardShape, PK_EVERY_BIAS)
