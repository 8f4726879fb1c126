#include "hopper_forward.cuh"
#include "instances.cuh"

PK_NARROW(PK_NO_BIAS, PK_KERNEL, hopper_forward, HopperForward, HopperShape)
PK_FINDER(hopper_forward, PK_NARROW(PK_NO_BIAS, PK_INSTANCE, hopper_forward, HopperForward, HopperShape))
