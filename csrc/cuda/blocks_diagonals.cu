#include "blocks.cuh"
#include "diagonals.cuh"
#include "listed.cuh"

#include "instances.cuh"

PK_OVER_BLOCKS(diagonals, Backward, DiagonalShape, Listed, PK_DISTANCE_OR_RELATIVE, PK_DISTANCE)
