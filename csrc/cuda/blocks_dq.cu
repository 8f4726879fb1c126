#include "blocks.cuh"
#include "dq.cuh"

#include "instances.cuh"

PK_OVER_BLOCKS(dq, Backward, BackwardShape, OverBlocks, PK_EVERY_BIAS, PK_ABSOLUTE)
