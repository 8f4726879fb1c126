#include "buckets_dq.cuh"

#include "instances.cuh"

PK_ALL_KERNELS(buckets_dq, BucketsBackward, BucketsQueryShape, PK_NO_BIAS, PK_NO_BIAS)
