#include "buckets_forward.cuh"

#include "instances.cuh"

PK_PLAIN_KERNELS(buckets_forward, BucketsForward, BucketsForwardShape)
