#include "diagonals.cuh"

#include "instances.cuh"

PK_KERNELS(diagonals, Backward, DiagonalShape, PK_DISTANCE_OR_RELATIVE)
