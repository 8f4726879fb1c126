#include "buckets_forward.cuh"

#include "instances.cuh"

PK_ALL_KERNELS(buckets_forward, BucketsForward, BucketsForwardShape, PK_NO_BIAS, PK_NO_BIAS)
