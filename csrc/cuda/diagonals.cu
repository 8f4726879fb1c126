#include "diagonals.cuh"

#include "instances.cuh"

PK_ALL_KERNELS(diagonals, Backward, DiagonalShape, PK_DISTANCE_OR_RELATIVE, PK_DISTANCE)
