#include "blocks.cuh"
#include "ddense.cuh"
#include "listed.cuh"

#include "instances.cuh"

PK_OVER_BLOCKS(ddense, Backward, BackwardShape, Listed, PK_DENSE, PK_DENSE)
