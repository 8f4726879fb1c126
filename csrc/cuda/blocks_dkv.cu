#include "blocks.cuh"
#include "dkv.cuh"

#include "instances.cuh"

PK_OVER_BLOCKS(dkv, Backward, BackwardShape, OverBlocks, PK_EVERY_BIAS, PK_ABSOLUTE)
